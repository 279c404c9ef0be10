//! Tests of messages, fragments, pings, pongs and close frames (RFC 6455, sections 5 and 7).

use crate::{assert_serving, heartbeat, heartbeat_reply};
use bytes::Bytes;
use gateway_tests::{
    Gateway, Setup,
    wire::{BINARY, CLOSE, PING, PONG, Wire, frame},
};

/// The first byte of a frame that begins a binary message without ending it.
const BINARY_BEGINS: u8 = 0x02;
const CONTINUES: u8 = 0x00;
const CONTINUES_AND_ENDS: u8 = 0x80;

async fn start() -> (Gateway, Wire) {
    let gateway = Gateway::start(Setup::default().patient()).await;
    let wire = Wire::upgraded(gateway.address).await;
    (gateway, wire)
}

#[track_caller]
fn check(came: Option<(u8, Bytes)>, first: u8, payload: &[u8]) {
    assert_eq!(came, Some((first, Bytes::copy_from_slice(payload))));
}

#[tokio::test]
async fn one_binary_message_is_one_packet() {
    let (gateway, mut wire) = start().await;
    // A message with the bytes of two packets is one packet, and its reply is one message.
    let two = [heartbeat(1, b"one"), heartbeat(2, b"two")].concat();
    wire.send(&frame(BINARY, &two)).await;
    check(wire.frame().await, BINARY, &heartbeat_reply(1, &two[8..]));
    // Two messages in one write are two packets.
    wire.send(&[frame(BINARY, &heartbeat(3, b"three")), frame(BINARY, &heartbeat(4, b""))].concat()).await;
    check(wire.frame().await, BINARY, &heartbeat_reply(3, b"three"));
    check(wire.frame().await, BINARY, &heartbeat_reply(4, b""));
    gateway.metric_is("gateway_messages_received_total{route=\"3\"}", 3.0).await;
}

#[tokio::test]
async fn every_length_of_frame_is_read_and_written() {
    let (_gateway, mut wire) = start().await;
    // These lengths are around the limits at which a frame encodes its length in 7, 16 or 64 bits.
    for len in [8, 125, 126, 127, 65_535, 65_536, 100_000] {
        let payload = vec![0x5a; len - 8];
        wire.send(&frame(BINARY, &heartbeat(9, &payload))).await;
        check(wire.frame().await, BINARY, &heartbeat_reply(9, &payload));
    }
}

#[tokio::test]
async fn a_frame_that_comes_byte_by_byte_is_served() {
    let (_gateway, mut wire) = start().await;
    for byte in frame(BINARY, &heartbeat(5, b"slowly")) {
        wire.send(&[byte]).await;
    }
    check(wire.frame().await, BINARY, &heartbeat_reply(5, b"slowly"));
}

#[tokio::test]
async fn a_fragmented_message_is_one_packet_also_with_a_ping_between_the_fragments() {
    let (gateway, mut wire) = start().await;
    let packet = heartbeat(6, b"in pieces");
    // The header itself is split, and a fragment may be empty.
    wire.send(&frame(BINARY_BEGINS, &packet[..3])).await;
    wire.send(&frame(PING, b"between")).await;
    check(wire.frame().await, PONG, b"between");
    wire.send(&frame(CONTINUES, b"")).await;
    wire.send(&frame(CONTINUES, &packet[3..10])).await;
    wire.send(&frame(PONG, b"unasked")).await;
    wire.send(&frame(CONTINUES_AND_ENDS, &packet[10..])).await;
    check(wire.frame().await, BINARY, &heartbeat_reply(6, b"in pieces"));
    wire.send(&[frame(BINARY_BEGINS, &packet), frame(CONTINUES_AND_ENDS, b"")].concat()).await;
    check(wire.frame().await, BINARY, &heartbeat_reply(6, b"in pieces"));
    gateway.metric_is("gateway_messages_received_total{route=\"3\"}", 2.0).await;
}

#[tokio::test]
async fn a_ping_is_answered_by_a_pong_with_its_payload() {
    let (_gateway, mut wire) = start().await;
    for payload in [&b""[..], b"x", &[0xff; 125]] {
        wire.send(&frame(PING, payload)).await;
        check(wire.frame().await, PONG, payload);
    }
}

#[tokio::test]
async fn a_pong_that_nobody_asked_for_is_ignored() {
    let (_gateway, mut wire) = start().await;
    wire.send(&frame(PONG, b"unasked")).await;
    wire.send(&frame(BINARY, &heartbeat(1, b""))).await;
    check(wire.frame().await, BINARY, &heartbeat_reply(1, b""));
}

#[tokio::test]
async fn a_close_frame_is_answered_by_a_close_frame_and_the_end_of_the_connection() {
    let gateway = Gateway::start(Setup::default()).await;
    let closes: [&[u8]; 4] = [b"\x03\xe8", b"\x03\xe9going", b"\x0f\xa0", b""];
    for payload in closes {
        let mut wire = Wire::upgraded(gateway.address).await;
        wire.send(&frame(CLOSE, payload)).await;
        // A close frame is answered with the same code (RFC 6455, 5.5.1).
        let code = payload.first_chunk().copied().map(u16::from_be_bytes);
        assert_eq!(wire.closed().await, code, "{payload:?}");
    }
    gateway.metric_is("gateway_disconnections_total{reason=\"closed\"}", 4.0).await;
    gateway.metric_is("gateway_sessions", 0.0).await;
    assert_serving(&gateway).await;
}

#[tokio::test]
async fn a_connection_that_ends_without_a_close_frame_is_counted_as_gone() {
    let (gateway, wire) = start().await;
    drop(wire);
    gateway.metric_is("gateway_disconnections_total{reason=\"gone\"}", 1.0).await;
    let mut half = Wire::upgraded(gateway.address).await;
    half.send(&frame(BINARY, &heartbeat(1, b"never whole"))[..10]).await;
    half.reset();
    gateway.metric_is("gateway_disconnections_total{reason=\"gone\"}", 2.0).await;
    gateway.metric_is("gateway_sessions", 0.0).await;
    assert_serving(&gateway).await;
}

#[tokio::test]
async fn a_client_that_closes_right_behind_its_requests_still_gets_the_answers() {
    let (gateway, _other) = start().await;
    for i in 0..20 {
        let mut wire = Wire::upgraded(gateway.address).await;
        let beats: Vec<_> = (0..50).map(|seq| frame(BINARY, &heartbeat(seq, b"before I go"))).collect();
        wire.send(&[beats.concat(), frame(CLOSE, b"\x0f\xa0bye")].concat()).await;
        for seq in 0..50 {
            assert_eq!(wire.frame().await, Some((BINARY, heartbeat_reply(seq, b"before I go").into())), "client {i}");
        }
        check(wire.frame().await, CLOSE, b"\x0f\xa0bye");
        assert_eq!(wire.frame().await, None);
    }
    gateway.metric_is("gateway_disconnections_total{reason=\"closed\"}", 20.0).await;
    gateway.metric_is("gateway_messages_dropped_total{reason=\"session_ended\"}", 0.0).await;
}

#[tokio::test]
async fn pings_between_packets_are_all_answered() {
    let (_gateway, mut wire) = start().await;
    let pair = |i: u32| [frame(PING, &i.to_be_bytes()), frame(BINARY, &heartbeat(i, b""))].concat();
    wire.send(&(0..30).map(pair).collect::<Vec<_>>().concat()).await;
    let mut pongs = Vec::new();
    let mut replies = Vec::new();
    while pongs.len() + replies.len() < 60 {
        match wire.frame().await.unwrap() {
            (PONG, payload) => pongs.push(u32::from_be_bytes(payload[..].try_into().unwrap())),
            (BINARY, reply) => replies.push(u32::from_be_bytes(reply[..4].try_into().unwrap())),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((pongs, replies), ((0..30).collect(), (0..30).collect()));
}
