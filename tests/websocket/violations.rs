//! Tests of forbidden frames: the session ends with the right close code, and the gateway serves on.

use crate::{assert_serving, heartbeat, heartbeat_reply};
use gateway_tests::{
    Gateway, Setup,
    wire::{BINARY, CLOSE, PING, PONG, TEXT, Wire, frame, frame_head},
};

const BINARY_BEGINS: u8 = 0x02;
const TEXT_BEGINS: u8 = 0x01;
const CONTINUES: u8 = 0x00;
const CONTINUES_AND_ENDS: u8 = 0x80;

/// Sends bytes on a new session. Asserts the close code and the counted reason, and that other clients are served.
async fn check(gateway: &Gateway, bytes: &[u8], code: u16, reason: &str) {
    let counted = format!("gateway_disconnections_total{{reason={reason:?}}}");
    let before = gateway.metric(&counted).await;
    let mut wire = Wire::upgraded(gateway.address).await;
    wire.send(bytes).await;
    let shown = &bytes[..bytes.len().min(20)];
    assert_eq!(wire.closed().await, Some(code), "{shown:02x?}");
    drop(wire);
    gateway.metric_is(&counted, before + 1.0).await;
    assert_serving(gateway).await;
}

#[tokio::test]
async fn a_text_message_is_closed_with_1003() {
    let gateway = Gateway::start(Setup::default()).await;
    check(&gateway, &frame(TEXT, b"hello"), 1003, "text").await;
    check(&gateway, &frame(TEXT, b""), 1003, "text").await;
    check(&gateway, &frame(TEXT, "grüße".as_bytes()), 1003, "text").await;
    // Fragments may split a character.
    let (head, tail) = "grüße".as_bytes().split_at(3);
    let torn = [frame(TEXT_BEGINS, head), frame(PING, b""), frame(CONTINUES_AND_ENDS, tail)].concat();
    let mut wire = Wire::upgraded(gateway.address).await;
    wire.send(&torn).await;
    assert_eq!(wire.frame().await, Some((PONG, "".into())));
    assert_eq!(wire.closed().await, Some(1003));
}

#[tokio::test]
async fn text_that_is_no_utf_8_is_closed_with_1007() {
    let gateway = Gateway::start(Setup::default()).await;
    check(&gateway, &frame(TEXT, b"\xc3\x28"), 1007, "protocol_error").await;
    check(&gateway, &frame(TEXT, b"cut \xc3"), 1007, "protocol_error").await;
    let torn = [frame(TEXT_BEGINS, b"a\xc3"), frame(CONTINUES_AND_ENDS, b"\x28")].concat();
    check(&gateway, &torn, 1007, "protocol_error").await;
    // The reason in a close frame is text as well.
    check(&gateway, &frame(CLOSE, b"\x03\xe8\xff\xfe"), 1007, "protocol_error").await;
}

#[tokio::test]
async fn a_message_over_max_message_bytes_is_closed_with_1009() {
    let gateway = Gateway::start(Setup::server("max_message_bytes: 1000")).await;
    check(&gateway, &frame(BINARY, &heartbeat(1, &[0; 993])), 1009, "too_large").await;
    check(&gateway, &frame(TEXT, &[b'x'; 1001]), 1009, "too_large").await;
    let fragments =
        [frame(BINARY_BEGINS, &heartbeat(1, &[0; 492])), frame(CONTINUES, &[0; 500]), frame(CONTINUES_AND_ENDS, &[0])];
    check(&gateway, &fragments.concat(), 1009, "too_large").await;
    // The gateway closes the session without waiting for more bytes than it allows.
    for len in [1001, 1 << 20, 1 << 40, i64::MAX as u64] {
        check(&gateway, &[&frame_head(BINARY, 0x80, len)[..], &[0; 4]].concat(), 1009, "too_large").await;
    }
}

#[tokio::test]
async fn a_message_of_exactly_max_message_bytes_is_served() {
    let gateway = Gateway::start(Setup::server("max_message_bytes: 1000")).await;
    let mut wire = Wire::upgraded(gateway.address).await;
    let (payload, reply) = ([0x11; 992], heartbeat_reply(1, &[0x11; 992]));
    wire.send(&frame(BINARY, &heartbeat(1, &payload))).await;
    assert_eq!(wire.frame().await, Some((BINARY, reply.clone().into())));
    let (head, tail) = payload.split_at(400);
    let fragments = [frame(BINARY_BEGINS, &heartbeat(1, head)), frame(CONTINUES, tail), frame(CONTINUES_AND_ENDS, b"")];
    wire.send(&fragments.concat()).await;
    assert_eq!(wire.frame().await, Some((BINARY, reply.into())));
}

#[tokio::test]
async fn sixteen_mebibytes_are_the_most_by_default() {
    let gateway = Gateway::start(Setup::default().patient()).await;
    let mut wire = Wire::upgraded(gateway.address).await;
    let payload = vec![0x42; (16 << 20) - 8];
    wire.send(&frame(BINARY, &heartbeat(1, &payload))).await;
    let (first, reply) = wire.frame().await.unwrap();
    // `assert_eq!` would print megabytes.
    assert!((first, &reply[..8]) == (BINARY, &[0, 0, 0, 1, 3, 1, 0, 0]), "{:?}", reply.slice(..reply.len().min(100)));
    assert!(reply[8..] == payload, "the payload came back changed");
    let head = frame_head(BINARY, 0x80, (16 << 20) + 1);
    check(&gateway, &[&head[..], &[0; 4]].concat(), 1009, "too_large").await;
}

#[tokio::test]
async fn an_unmasked_frame_is_closed_with_1002() {
    let gateway = Gateway::start(Setup::default()).await;
    for first in [BINARY, TEXT, PING, PONG, CLOSE] {
        let payload = heartbeat(1, b"in the clear");
        let bytes = [frame_head(first, 0, payload.len() as u64), payload].concat();
        check(&gateway, &bytes, 1002, "protocol_error").await;
    }
}

#[tokio::test]
async fn a_reserved_opcode_is_closed_with_1002() {
    let gateway = Gateway::start(Setup::default()).await;
    for opcode in (0x3..=0x7).chain(0xb..=0xf) {
        check(&gateway, &frame(0x80 | opcode, b"?"), 1002, "protocol_error").await;
    }
}

#[tokio::test]
async fn a_reserved_bit_is_closed_with_1002() {
    let gateway = Gateway::start(Setup::default()).await;
    for bit in [0x40, 0x20, 0x10] {
        for first in [BINARY, TEXT, PING, CLOSE] {
            check(&gateway, &frame(first | bit, b""), 1002, "protocol_error").await;
        }
    }
}

#[tokio::test]
async fn a_control_frame_that_is_fragmented_or_over_125_bytes_is_closed_with_1002() {
    let gateway = Gateway::start(Setup::default()).await;
    for first in [PING, PONG, CLOSE] {
        check(&gateway, &frame(first & 0x7f, b"\x03\xe8"), 1002, "protocol_error").await;
        let long = [b"\x03\xe8", &[b'x'; 124][..]].concat();
        check(&gateway, &frame(first, &long), 1002, "protocol_error").await;
    }
}

#[tokio::test]
async fn fragments_out_of_order_are_closed_with_1002() {
    let gateway = Gateway::start(Setup::default()).await;
    check(&gateway, &frame(CONTINUES, b"of what?"), 1002, "protocol_error").await;
    check(&gateway, &frame(CONTINUES_AND_ENDS, b"of what?"), 1002, "protocol_error").await;
    for begins_anew in [BINARY, BINARY_BEGINS, TEXT] {
        let bytes = [frame(BINARY_BEGINS, b"one"), frame(begins_anew, b"two")].concat();
        check(&gateway, &bytes, 1002, "protocol_error").await;
    }
}

#[tokio::test]
async fn a_close_frame_that_makes_no_sense_is_closed_with_1002() {
    let gateway = Gateway::start(Setup::default()).await;
    check(&gateway, &frame(CLOSE, b"\x03"), 1002, "protocol_error").await;
    // These codes must not be sent (RFC 6455, 7.4).
    for code in [0_u16, 999, 1005, 1006, 1015, 65_535] {
        let mut wire = Wire::upgraded(gateway.address).await;
        wire.send(&frame(CLOSE, &code.to_be_bytes())).await;
        assert_eq!(wire.closed().await, Some(1002), "answered to {code}");
    }
    assert_serving(&gateway).await;
}

#[tokio::test]
async fn frames_after_a_violation_are_not_served() {
    let gateway = Gateway::start(Setup::default()).await;
    let bytes = [frame(TEXT, b"hello"), frame(BINARY, &heartbeat(1, b"too late")), frame(PING, b"too late")].concat();
    check(&gateway, &bytes, 1003, "text").await;
    gateway.metric_is("gateway_messages_received_total{route=\"3\"}", 1.0).await;
}
