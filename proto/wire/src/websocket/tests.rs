use super::*;
use proptest::{collection::vec, prelude::*};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn served(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    put_head(opcode, payload.len(), &mut frame);
    frame.extend_from_slice(payload);
    frame
}

fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    put_masked(opcode, payload, MASK, &mut frame);
    frame
}

#[test]
fn the_examples_of_the_rfc_are_written_and_read() {
    // RFC 6455, section 5.7.
    assert_eq!(served(Opcode::Text, b"Hello"), b"\x81\x05Hello");
    assert_eq!(masked(Opcode::Text, b"Hello"), b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    assert_eq!(served(Opcode::Binary, &[0; 256])[..4], *b"\x82\x7e\x01\x00");
    assert_eq!(served(Opcode::Binary, &vec![0; 1 << 16])[..10], *b"\x82\x7f\0\0\0\0\0\x01\0\0");
    let head = Head { last: false, opcode: Opcode::Text, len: 3, mask: [0; 4], size: 2 };
    assert_eq!(Head::parse(b"\x01\x03Hel", Sender::Server), Ok(Some(head)));
}

#[test]
fn the_longest_heads_have_the_lengths_of_the_constants() {
    assert_eq!(served(Opcode::Binary, &vec![0; 1 << 16]).len(), MAX_SERVER_HEAD_BYTES + (1 << 16));
    assert_eq!(masked(Opcode::Binary, &vec![0; 1 << 16]).len(), MAX_CLIENT_HEAD_BYTES + (1 << 16));
}

#[track_caller]
fn refused(bytes: &[u8], sender: Sender, because: &'static str) {
    assert_eq!(Head::parse(bytes, sender), Err(ProtocolError::Rule(because)));
}

#[test]
fn a_head_that_breaks_a_rule_is_refused() {
    refused(b"\xc2\x01", Sender::Server, "a reserved bit is set");
    refused(b"\x83\x01", Sender::Server, "an opcode is reserved");
    refused(b"\x82\x01", Sender::Client, "a client's frames have to be masked");
    refused(b"\x82\x81", Sender::Server, "a server's frames are never masked");
    refused(b"\x09\x80", Sender::Client, "a control frame is never fragmented");
    refused(b"\x89\x7e", Sender::Server, "a control frame has at most 125 bytes");
}

#[test]
fn a_control_frame_is_cut_at_its_largest_payload() {
    let mut frame = Vec::new();
    put_control(Opcode::Ping, &[7; 126], &mut frame);
    assert_eq!(frame, [&[0x89, 125][..], &[7; 125]].concat());
}

#[test]
fn a_close_frame_carries_nothing_or_a_code_and_a_reason() {
    assert_eq!(parse_close(b""), Ok(None));
    assert_eq!(parse_close(&close_payload(1000, "bye")), Ok(Some((1000, "bye"))));
    // The reason is cut at a character, so that it stays UTF-8.
    assert_eq!(parse_close(&close_payload(4999, &"é".repeat(62))), Ok(Some((4999, &*"é".repeat(61)))));
    assert_eq!(parse_close(b"\x03"), Err(ProtocolError::Rule("a close code has two bytes")));
    assert_eq!(parse_close(b"\x03\xe8\xff"), Err(ProtocolError::NotUtf8));
    for code in [0, 999, 1004, 1005, 1006, 1014, 2999, 5000] {
        let why = "the close code is none that may be sent";
        assert_eq!(parse_close(&close_payload(code, "")), Err(ProtocolError::Rule(why)), "{code}");
    }
}

proptest! {
    #[test]
    fn a_frame_reads_back_once_its_head_is_whole(
        payload in prop_oneof![vec(any::<u8>(), 0..300), vec(any::<u8>(), 65_530..65_540)],
        opcode in prop_oneof![Just(Opcode::Text), Just(Opcode::Binary)],
    ) {
        let frames = [(served(opcode, &payload), Sender::Server), (masked(opcode, &payload), Sender::Client)];
        for (frame, sender) in frames {
            let head = Head::parse(&frame, sender).unwrap().unwrap();
            prop_assert_eq!((head.last, head.opcode, head.len), (true, opcode, payload.len() as u64));
            for len in 0..head.size {
                prop_assert_eq!(Head::parse(&frame[..len], sender), Ok(None));
            }
            let mut read = frame[head.size..].to_vec();
            apply_mask(&mut read, head.mask, 0);
            prop_assert_eq!(&read, &payload);
        }
    }

    #[test]
    fn a_payload_may_be_masked_in_parts(payload in vec(any::<u8>(), 0..100), mask: [u8; 4], cut in 0..100_usize) {
        let cut = cut.min(payload.len());
        let mut parts = payload.clone();
        let (head, tail) = parts.split_at_mut(cut);
        apply_mask(head, mask, 0);
        apply_mask(tail, mask, cut as u64);
        let expected: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        prop_assert_eq!(parts, expected);
    }

    #[test]
    fn any_bytes_are_a_head_or_an_error_or_not_whole(bytes in vec(any::<u8>(), 0..20)) {
        for sender in [Sender::Client, Sender::Server] {
            if let Ok(Some(head)) = Head::parse(&bytes, sender) {
                prop_assert!(head.size <= bytes.len());
            }
        }
    }
}
