//! Tests of hostile input that would cost the gateway more than it costs the sender.

use crate::{assert_serving, heartbeat, heartbeat_reply};
use futures_util::future::join_all;
use gateway_tests::{
    Gateway, Setup, eventually,
    wire::{BINARY, CLOSE, PING, PONG, Wire, frame, frame_head},
};

const BINARY_BEGINS: u8 = 0x02;
const CONTINUES: u8 = 0x00;

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_takes_no_memory_for_bytes_that_have_not_arrived() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut wires = join_all((0..1000).map(|_| Wire::upgraded(gateway.address))).await;
    assert_serving(&gateway).await;
    let before = gateway.resident_bytes();
    // The bytes are the header and the mask of a frame of 16 MiB.
    let head = [&frame_head(BINARY, 0x80, 16 * MIB)[..], &[0; 4]].concat();
    for wire in &mut wires {
        wire.send(&head).await;
    }
    assert_serving(&gateway).await;
    gateway.metric_is("gateway_sessions", 1000.0).await;
    let grown = gateway.resident_bytes().saturating_sub(before) / MIB;
    assert!(grown < 16, "1000 connections with 14 bytes each made the gateway grow by {grown} MiB");
}

/// Returns the start of a frame with a message of `len` bytes. The start contains the first `sent` bytes of the
/// message.
fn part(len: usize, sent: usize) -> Vec<u8> {
    let whole = frame(BINARY, &heartbeat(1, &vec![7; len - 8]));
    whole[..whole.len() - len + sent].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_receive_budget_bytes_is_exceeded_the_session_with_most_bytes_is_closed_with_1009() {
    let server = "max_message_bytes: 1048576, receive_budget_bytes: 1500000";
    let gateway = Gateway::start(Setup::server(server).patient()).await;
    let mut large = Wire::upgraded(gateway.address).await;
    large.send(&part(1 << 20, 1_000_000)).await;
    let receiving = "gateway_receiving_bytes";
    eventually("a million received bytes of a message", || async {
        (gateway.metric(receiving).await >= 1_000_000.0).then_some(())
    })
    .await;
    // A small message arrives complete, so it is not counted.
    assert_serving(&gateway).await;
    let mut small = Wire::upgraded(gateway.address).await;
    let message = frame(BINARY, &heartbeat(1, &[7; 599_992]));
    let (first, rest) = message.split_at(590_000);
    small.send(first).await;
    let (first, payload) = large.frame().await.expect("a close frame");
    assert_eq!((first, &payload[..]), (CLOSE, &b"\x03\xf1the gateway receives too much at once"[..]));
    small.send(rest).await;
    assert_eq!(small.frame().await, Some((BINARY, heartbeat_reply(1, &[7; 599_992]).into())));
    drop(large);
    gateway.metric_is("gateway_disconnections_total{reason=\"receive_budget\"}", 1.0).await;
    gateway.metric_is(receiving, 0.0).await;
    assert_serving(&gateway).await;
}

/// Sends the frames on a new connection until the gateway closes it with 1008.
async fn flood(gateway: &Gateway, frames: &[u8], kind: &str) {
    let counted = format!("gateway_frames_received_total{{kind={kind:?}}}");
    let closed = "gateway_disconnections_total{reason=\"frame_flood\"}";
    let before = gateway.metric(closed).await;
    let mut wire = Wire::upgraded(gateway.address).await;
    wire.send(frames).await;
    let payload = loop {
        match wire.frame().await.expect("a close frame") {
            (PONG, _) => {}
            (CLOSE, payload) => break payload,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(&payload[..], b"\x03\xf0too many frames that carry no packet", "{kind}");
    drop(wire);
    gateway.metric_is(closed, before + 1.0).await;
    // The default limit is 100 frames per second, and a burst of ten times as many. While the flood is sent, the rate
    // allows some frames beyond the burst.
    let count = gateway.metric(&counted).await;
    assert!((1001.0..1500.0).contains(&count), "{count} {kind}s");
    assert_serving(gateway).await;
}

#[tokio::test]
async fn a_flood_of_frames_that_carry_no_packet_is_counted_and_closed_with_1008() {
    let gateway = Gateway::start(Setup::default()).await;
    flood(&gateway, &frame(PING, b"").repeat(5000), "ping").await;
    flood(&gateway, &frame(PONG, b"").repeat(5000), "pong").await;
    let fragments = [frame(BINARY_BEGINS, b""), frame(CONTINUES, b"").repeat(5000)].concat();
    flood(&gateway, &fragments, "fragment").await;
}

#[tokio::test]
async fn a_large_message_in_many_fragments_is_no_flood() {
    let gateway = Gateway::start(Setup::default().patient()).await;
    let mut wire = Wire::upgraded(gateway.address).await;
    let payload = vec![9; 128 * 5000];
    let mut fragments = frame(BINARY_BEGINS, &heartbeat(1, b""));
    fragments.extend(payload.chunks(128).flat_map(|chunk| frame(CONTINUES, chunk)));
    fragments.extend(frame(0x80, b""));
    wire.send(&fragments).await;
    assert_eq!(wire.frame().await, Some((BINARY, heartbeat_reply(1, &payload).into())));
    gateway.metric_is("gateway_frames_received_total{kind=\"fragment\"}", 5002.0).await;
}
