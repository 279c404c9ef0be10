use super::*;
use crate::{config::Config, delivery::session::Session, net::budget::Budget};
use proptest::{collection::vec, prelude::*, sample::Index};
use std::{io, net::SocketAddr};
use tungstenite::{
    Error,
    error::{CapacityError, ProtocolError},
    protocol::{Role, WebSocketConfig, WebSocketContext},
};

const MASK: [u8; 4] = [1, 2, 3, 4];

/// Returns a receiver with these keys in the section `server` and a budget of its own. Its routes take any payload.
pub(crate) fn receiver(server: &str) -> Receiver {
    limited(server, usize::MAX)
}

/// Returns a receiver with routes that take payloads of up to `max_payload` bytes.
fn limited(server: &str, max_payload: usize) -> Receiver {
    let yaml = format!("plugins: {{ directory: . }}\nserver: {{ {server} }}");
    let config = Config::parse(&yaml).unwrap().server;
    let metrics = Arc::new(Metrics::new());
    let budget = Arc::new(Budget::new(config.receive_budget_bytes, Arc::clone(&metrics)));
    let session = Arc::new(Session::new(SocketAddr::from(([127, 0, 0, 1], 1)), Arc::clone(&config.outbox)));
    let limits = Arc::new(PayloadLimits::all(max_payload));
    Receiver::new(&config, budget.lease(session), limits, metrics)
}

/// Returns a client's frame. Its length field is at least as wide as that of a frame with `longest` bytes of payload.
fn frame(first: u8, payload: &[u8], longest: usize) -> Vec<u8> {
    // Built by hand: the codec writes neither longer forms of a length nor first bytes that break a rule.
    let mut frame = vec![first];
    let len = payload.len();
    match len.max(longest) {
        0..126 => frame.push(0x80 | u8::try_from(len).unwrap()),
        126..=0xffff => frame.extend([&[0xfe][..], &u16::try_from(len).unwrap().to_be_bytes()].concat()),
        _ => frame.extend([&[0xff][..], &(len as u64).to_be_bytes()].concat()),
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Generates the bytes of a packet and the messages that they contain. The packet is whole or in fragments, with a ping
/// after each fragment except the last.
pub(crate) fn packet_bytes_and_messages() -> impl Strategy<Value = (Vec<u8>, Vec<Message>)> {
    let len = prop_oneof![8 => 0..200_usize, 2 => 0..9000_usize, 1 => 60_000..70_000_usize];
    let longest = prop_oneof![4 => Just(0_usize), 1 => Just(126), 1 => Just(1 << 16)];
    (len, any::<u8>(), vec(any::<Index>(), 0..3), longest).prop_map(|(len, first, cuts, longest)| {
        let payload: Vec<u8> = (0..len).map(|i| first.wrapping_add((i % 251) as u8)).collect();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(len + 1)).collect();
        cuts.sort_unstable();
        let (mut bytes, mut messages, mut from, mut opcode) = (Vec::new(), Vec::new(), 0, 2);
        for cut in cuts {
            bytes.extend(frame(opcode, &payload[from..cut], longest));
            bytes.extend(frame(0x89, b"ping", 0));
            messages.push(Message::Ping("ping".into()));
            (from, opcode) = (cut, 0);
        }
        bytes.extend(frame(0x80 | opcode, &payload[from..], longest));
        messages.push(Message::Packet(payload.into()));
        (bytes, messages)
    })
}

/// The messages that were received and the close code of the end. There is no code if the bytes ran out first.
type Received = (Vec<Message>, Option<u16>);

/// Receives the bytes with the gateway's receiver, in parts of these lengths.
fn received_by_gateway(bytes: &[u8], parts: &[usize]) -> Received {
    let mut receiver = receiver("max_message_bytes: 1000, control_frames_per_s: 1000000");
    let (mut messages, mut kept, mut coming) = (Vec::new(), Vec::new(), bytes);
    for part in parts.iter().cycle() {
        if coming.is_empty() {
            break;
        }
        let (now, later) = coming.split_at(coming.len().min(*part));
        coming = later;
        kept.extend_from_slice(now);
        let mut left = &kept[..];
        loop {
            match receiver.next(&mut left) {
                Ok(Some(message)) => {
                    let ended = matches!(message, Message::Close(_));
                    messages.push(message);
                    if ended {
                        return (messages, Some(1000));
                    }
                }
                Ok(None) => break,
                Err(Violation::Protocol(error)) => return (messages, Some(error.close_code())),
                Err(Violation::TooLarge { .. }) => return (messages, Some(1009)),
                Err(other) => panic!("{other}"),
            }
        }
        assert!(left.len() < 14 + websocket::MAX_CONTROL_BYTES, "{} bytes are left over", left.len());
        kept = left.to_vec();
    }
    (messages, None)
}

/// A connection that reads these bytes and discards all writes.
struct Memory<'a>(&'a [u8]);

impl io::Read for Memory<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl io::Write for Memory<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Receives the bytes with tungstenite.
fn received_by_tungstenite(bytes: &[u8]) -> Received {
    let limits = WebSocketConfig::default().max_message_size(Some(1000)).max_frame_size(Some(1000));
    let mut socket = WebSocketContext::new(Role::Server, Some(limits));
    let (mut wire, mut messages) = (Memory(bytes), Vec::new());
    loop {
        let message = match socket.read(&mut wire) {
            Ok(tungstenite::Message::Binary(payload)) => Message::Packet(payload),
            Ok(tungstenite::Message::Text(_)) => Message::Text,
            Ok(tungstenite::Message::Ping(payload)) => Message::Ping(payload),
            Ok(tungstenite::Message::Pong(_)) => Message::Pong,
            Ok(tungstenite::Message::Close(frame)) => {
                if frame.as_ref().is_some_and(|frame| frame.reason == "Protocol violation") {
                    return (messages, Some(1002));
                }
                let payload =
                    frame.map(|frame| [&u16::from(frame.code).to_be_bytes(), frame.reason.as_bytes()].concat());
                messages.push(Message::Close(payload.unwrap_or_default().into()));
                return (messages, Some(1000));
            }
            Ok(tungstenite::Message::Frame(_)) => unreachable!(),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return (messages, None),
            Err(Error::Protocol(_)) => return (messages, Some(1002)),
            Err(Error::Utf8(_)) => return (messages, Some(1007)),
            Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => return (messages, Some(1009)),
            Err(other) => panic!("{other}"),
        };
        messages.push(message);
    }
}

/// Generates a frame with at most one fault.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop_oneof![6 => Just(0_u8), 3 => Just(1), 8 => Just(2), 1 => Just(8), 3 => Just(9), 2 => Just(10)];
    let payload = prop_oneof![
        4 => vec(any::<u8>(), 0..20),
        2 => vec(0x20..0x7f_u8, 0..126),
        1 => Just("grüße".as_bytes().to_vec()),
        1 => vec(any::<u8>(), 120..400),
    ];
    (opcode, any::<bool>(), payload, 0..60_u8, any::<[u8; 2]>()).prop_map(|(opcode, last, payload, fault, code)| {
        let control = opcode >= 8;
        let payload = if control { &payload[..payload.len().min(125)] } else { &payload[..] };
        let mut payload = payload.to_vec();
        if opcode == 8 && payload.len() >= 2 {
            payload[..2].copy_from_slice(&code);
        }
        // The receiver checks text when the message is complete, and tungstenite checks it earlier. So all text is
        // ASCII here.
        if opcode <= 1 {
            payload.iter_mut().for_each(|byte| *byte &= 0x7f);
        }
        let mut bytes = frame(opcode | if last || control { 0x80 } else { 0 }, &payload, 0);
        match fault {
            0 => bytes[0] |= 0x40,
            1 => bytes[0] |= 0x0f,
            2 => bytes[1] &= 0x7f,
            3 if control => bytes[0] &= 0x7f,
            4 if control => bytes = frame(0x80 | opcode, &[b'x'; 126], 0),
            5 => bytes = frame(0x82, &[0; 1001], 0),
            _ => {}
        }
        bytes
    })
}

/// Returns the capacity and the length of the buffer of the current message.
fn buffer(receiver: &Receiver) -> (usize, usize) {
    let payload = receiver.partial.as_ref().map(|partial| &partial.payload);
    payload.map_or((0, 0), |payload| (payload.capacity(), payload.len()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_frames_are_received_as_by_tungstenite(
        frames in vec(any_frame(), 1..12),
        parts in vec(prop_oneof![Just(1_usize), 1..40_usize, Just(10_000)], 1..6),
    ) {
        let bytes = frames.concat();
        let (messages, end) = received_by_gateway(&bytes, &parts);
        let (expected, mut expected_end) = received_by_tungstenite(&bytes);
        // If a frame is both too large and out of order, tungstenite reports its size and the receiver reports its
        // order.
        if (end, expected_end) == (Some(1002), Some(1009)) {
            expected_end = end;
        }
        prop_assert_eq!((messages, end), (expected, expected_end));
    }

    #[test]
    fn any_bytes_are_received_without_a_panic(bytes in vec(any::<u8>(), 0..300), parts in vec(1..40_usize, 1..6)) {
        received_by_gateway(&bytes, &parts);
    }
}

#[test]
fn every_close_code_is_received_as_by_tungstenite() {
    for code in 0..=u16::MAX {
        let bytes = frame(0x88, &code.to_be_bytes(), 0);
        assert_eq!(received_by_gateway(&bytes, &[bytes.len()]), received_by_tungstenite(&bytes), "{code}");
    }
}

#[test]
fn a_buffer_grows_with_the_received_bytes_and_not_with_the_announced_length() {
    let mut receiver = receiver("");
    let whole = frame(0x82, &vec![7; 16 << 20], 0);
    let (mut head, mut rest) = whole.split_at(14);
    assert_eq!(receiver.next(&mut head), Ok(None));
    assert_eq!(buffer(&receiver).0, 0);
    let mut came = 0;
    while rest.len() > 8000 {
        let (mut part, later) = rest.split_at(8000);
        assert_eq!(receiver.next(&mut part), Ok(None));
        rest = later;
        came += 8000;
        assert!(buffer(&receiver).0 <= came * 3 / 2, "{} for {came}", buffer(&receiver).0);
    }
    assert_eq!(receiver.next(&mut rest), Ok(Some(Message::Packet(vec![7; 16 << 20].into()))));
    assert_eq!((buffer(&receiver).0, receiver.metrics.receiving_bytes.get()), (0, 0));
}

#[test]
fn a_payload_over_the_limit_of_its_route_is_not_buffered() {
    let header = Header { seq: 7, route: 3, flags: 0, status: 0 };
    let packet = |len: usize| [&header.encode()[..], &vec![1; len]].concat();
    let too_large = |bytes| Ok(Some(Message::TooLarge { header, bytes, max: 1000 }));
    let mut receiver = limited("", 1000);
    // The first packet is one frame that arrives in parts.
    let whole = frame(0x82, &packet(1 << 20), 0);
    let (last, parts) = whole.split_last().unwrap();
    for mut part in parts.chunks(8000) {
        assert_eq!(receiver.next(&mut part), Ok(None));
        assert!(buffer(&receiver).0 <= 8000, "{}", buffer(&receiver).0);
    }
    assert_eq!(buffer(&receiver).0, HEADER_LEN);
    assert_eq!(receiver.next(&mut &[*last][..]), too_large(1 << 20));
    // The second packet comes in fragments. The first fragment ends within the header. The third one fills the limit.
    let packet = packet(1001);
    for (opcode, part) in [(2, &packet[..5]), (0, &packet[5..500]), (0, &packet[500..1008])] {
        assert_eq!(receiver.next(&mut &frame(opcode, part, 0)[..]), Ok(None));
    }
    assert_eq!(buffer(&receiver).1, 1008);
    assert_eq!(receiver.next(&mut &frame(0, &packet[1008..], 0)[..]), Ok(None));
    assert_eq!(buffer(&receiver).1, HEADER_LEN);
    assert_eq!(receiver.next(&mut &frame(0x80, b"", 0)[..]), too_large(1001));
    // The next message begins afresh.
    let small = Bytes::copy_from_slice(&packet[..1008]);
    assert_eq!(receiver.next(&mut &frame(0x82, &small, 0)[..]), Ok(Some(Message::Packet(small))));
    // A text message is not a packet, so no route limits it.
    assert_eq!(receiver.next(&mut &frame(1, &[b'a'; 2000], 0)[..]), Ok(None));
    assert_eq!(receiver.next(&mut &frame(0x80, b"", 0)[..]), Ok(Some(Message::Text)));
}

#[test]
fn the_bytes_of_fragments_are_buffered_once_and_counted() {
    let mut receiver = receiver("");
    let mut bytes = &frame(2, &[1; 200], 0)[..];
    assert_eq!(receiver.next(&mut bytes), Ok(None));
    for _ in 0..10_000 {
        assert_eq!(receiver.next(&mut &frame(0, &[1; 200], 0)[..]), Ok(None));
    }
    let held = 2_000_200..=3_000_300;
    assert!(held.contains(&buffer(&receiver).0), "{}", buffer(&receiver).0);
    assert!(held.contains(&(receiver.metrics.receiving_bytes.get() as usize)));
    assert_eq!(receiver.metrics.fragments_received.get(), 10_001);
    receiver.discard();
    assert_eq!((buffer(&receiver).0, receiver.metrics.receiving_bytes.get()), (0, 0));
    // The receiver still finds the end of the message.
    assert_eq!(receiver.next(&mut &frame(0x80, &[1; 200], 0)[..]), Ok(Some(Message::Packet(Bytes::new()))));
}

#[test]
fn frames_that_carry_no_packet_are_limited_and_counted() {
    let flood = |frames: &[Vec<u8>]| {
        let mut receiver = receiver("control_frames_per_s: 1");
        let sent = frames.iter().cycle().take(1000);
        let taken = sent.take_while(|frame| receiver.next(&mut &frame[..]).is_ok()).count();
        let counts = [&receiver.metrics.pings_received, &receiver.metrics.pongs_received];
        (taken, counts.map(|count| count.get()), receiver.metrics.fragments_received.get())
    };
    // The burst is ten seconds of the limit. The frame that exceeds the limit is counted too.
    assert_eq!(flood(&[frame(0x89, b"", 0)]), (10, [11, 0], 0));
    assert_eq!(flood(&[frame(0x8a, b"", 0)]), (10, [0, 11], 0));
    let fragments: Vec<_> = (0..1000).map(|i| frame(if i == 0 { 2 } else { 0 }, b"", 0)).collect();
    assert_eq!(flood(&fragments), (10, [0, 0], 11));
    let large: Vec<_> = (0..1000).map(|i| frame(if i == 0 { 2 } else { 0 }, &[0; 128], 0)).collect();
    assert_eq!(flood(&large), (1000, [0, 0], 1000));
    assert_eq!(flood(&[frame(0x82, b"packet", 0)]), (1000, [0, 0], 0));
}
