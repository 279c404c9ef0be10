//! Tests of clients that do not read. The memory for their queued messages is bounded, and other clients are not
//! disturbed.

use crate::{assert_receives, backend, delivery, publish, session_of, start};
use gateway_tests::{
    Gateway, PATIENCE, Redis, Setup, in_time,
    wire::{BINARY, PING, Wire, frame},
};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{self, Instant},
};

const MIB: u64 = 1 << 20;
/// The number of messages in a flood. They do not fit in the kernel's buffers of both sides, and they are many times
/// larger than the send queue.
const MESSAGES: usize = 5120;
/// The number of messages that a flood publishes at once.
const BATCH: usize = 256;
/// The length of the text in each message, in bytes.
const CONTENT: usize = 16 * 1024;

const DROPPED: &str = "gateway_messages_dropped_total{reason=\"send_queue_full\"}";
const LOST: &str = "gateway_messages_dropped_total{reason=\"session_ended\"}";
const DELIVERED: &str = "gateway_deliveries_total{outcome=\"delivered\"}";

/// Delivers `MESSAGES` messages to the user. Returns the gateway's peak resident memory during the flood, in bytes.
async fn flood(redis: &Redis, gateway: &Gateway, user: i32) -> u64 {
    let mut backend = backend(redis).await;
    let payload = delivery(user, &"x".repeat(CONTENT));
    let already = gateway.metric(DELIVERED).await;
    let mut most = 0;
    for sent in (BATCH..=MESSAGES).step_by(BATCH) {
        publish(&mut backend, &payload, BATCH).await;
        // The flood waits after each batch, since Redis disconnects a subscriber with more than 32 MiB of pending
        // output.
        gateway.metric_is(DELIVERED, already + sent as f64).await;
        most = most.max(gateway.resident_bytes());
    }
    most
}

fn warnings(gateway: &Gateway) -> usize {
    let is_warning = |line: &&serde_json::Value| {
        line["level"] == "WARN"
            && line["fields"]["message"].as_str().is_some_and(|message| message.starts_with("send queue full"))
    };
    gateway.log_lines().iter().filter(is_warning).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_for_a_client_that_stopped_reading_are_dropped_and_counted_and_leave_a_gap() {
    let (redis, gateway) = start("send_queue: 1000000, send_queue_bytes: 2097152").await;
    let mut slow = session_of(&gateway, 1).await;
    let mut other = session_of(&gateway, 2).await;
    let before = gateway.resident_bytes();
    let began = Instant::now();
    let most = flood(&redis, &gateway, 1).await;
    // The send queue, the allocator and the buffers of the Redis connection make the gateway grow. The growth is far
    // less than the 80 MiB of the flood.
    let grown = most.saturating_sub(before) / MIB;
    assert!(grown < 24, "the gateway grew by {grown} MiB");
    gateway.logged("send queue full").await;
    let warned = warnings(&gateway);
    let most_warnings = 1 + began.elapsed().as_secs();
    assert!((1..=most_warnings as usize).contains(&warned), "{:#?}", gateway.log_lines());

    let payload = delivery(2, "nobody else notices");
    publish(&mut backend(&redis).await, &payload, 1).await;
    assert_receives(&mut other, 1, &payload).await;
    other.assert_alive().await;

    // The client reads again. The delivery numbers increase, and dropped messages leave gaps in the numbers.
    let last = delivery(1, "last");
    let mut numbers = Vec::new();
    let dropped = gateway.metric(DROPPED).await;
    assert!(dropped > 1000.0, "only {dropped} were dropped");
    while numbers.len() as f64 + dropped < MESSAGES as f64 {
        numbers.push(slow.receive().await.seq);
    }
    publish(&mut backend(&redis).await, &last, 1).await;
    assert_receives(&mut slow, MESSAGES as u32 + 1, &last).await;
    assert!(numbers.is_sorted_by(|a, b| a < b) && numbers[0] == 1, "{numbers:?}");
    assert!((*numbers.last().unwrap() as usize) <= MESSAGES);
    gateway.metric_is(DROPPED, dropped).await;
    slow.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn send_queue_bounds_the_queued_messages() {
    let (redis, gateway) = start("send_queue: 10, send_queue_bytes: 1073741824").await;
    let mut slow = session_of(&gateway, 1).await;
    flood(&redis, &gateway, 1).await;
    let dropped = gateway.metric(DROPPED).await;
    // At most ten messages are queued or being written. The other messages that were not dropped are in the kernel's
    // buffers. The limit of `send_queue_bytes` is too large to drop any message.
    let not_dropped = MESSAGES - dropped as usize;
    assert!(not_dropped * CONTENT < 20 << 20, "{not_dropped} of {MESSAGES} were not dropped");
    for _ in 0..not_dropped {
        slow.receive().await;
    }
    slow.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_queues_of_many_sessions_are_logged_at_most_once_a_second() {
    let (redis, gateway) = start("send_queue: 10").await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        slow.push(session_of(&gateway, 1).await);
    }
    let backend = &mut backend(&redis).await;
    let payload = delivery(1, &"x".repeat(CONTENT));
    let began = Instant::now();
    while warnings(&gateway) < 3 {
        assert!(began.elapsed() < PATIENCE, "no third warning");
        publish(backend, &payload, 64).await;
        time::sleep(Duration::from_millis(20)).await;
    }
    let warned = warnings(&gateway);
    let most = 1 + began.elapsed().as_secs();
    assert!(warned as u64 <= most, "{warned} warnings in {most} seconds");
    let dropped = gateway.metric(DROPPED).await;
    assert!(dropped > 1000.0, "only {dropped} were dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_far_too_slowly_is_disconnected_and_every_message_is_counted() {
    // The time is longer than the flood takes, because a session that ends during the flood gets no more messages.
    let (redis, gateway) = start("send_timeout_s: 10").await;
    let slow = session_of(&gateway, 1).await;
    flood(&redis, &gateway, 1).await;
    let ended = "gateway_disconnections_total{reason=\"send_timeout\"}";
    let mut socket = slow.socket.into_inner();
    let deadline = Instant::now() + PATIENCE;
    // The client never stops reading.
    while gateway.metric(ended).await < 1.0 {
        assert!(Instant::now() < deadline, "a client that reads 100 KB/s with a full send queue is not disconnected");
        // The read fails once the session has ended, so its result is ignored.
        let _ = in_time("bytes for a client that reads", socket.read_exact(&mut vec![0; 10_000])).await;
        time::sleep(Duration::from_millis(100)).await;
    }
    gateway.metric_is("gateway_sessions", 0.0).await;
    let (lost, dropped) = (gateway.metric(LOST).await, gateway.metric(DROPPED).await);
    assert!(lost > 0.0);
    // Three packets are not part of the flood: the welcome, the heartbeat's reply, and the refusal of the request that
    // binds the session. That request is refused because no backend hears it.
    let sent = gateway.metric("gateway_messages_sent_total").await - 3.0;
    assert_eq!(sent + lost + dropped, MESSAGES as f64, "{sent} sent, {lost} lost, {dropped} dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_full_queue_close_closes_the_session_with_1013() {
    let (redis, gateway) = start("send_queue: 10, on_full_queue: close").await;
    let mut slow = session_of(&gateway, 1).await;
    let mut other = session_of(&gateway, 2).await;
    let backend = &mut backend(&redis).await;
    let payload = delivery(1, &"x".repeat(CONTENT));
    let deadline = Instant::now() + PATIENCE;
    while gateway.metric("gateway_sessions").await > 1.0 {
        assert!(Instant::now() < deadline, "a session with a full queue is not closed");
        publish(backend, &payload, 64).await;
    }
    // The gateway keeps the connection open for a moment, so that a client that still reads receives the close reason.
    let closed = slow.closed().await.expect("a close reason");
    assert_eq!((u16::from(closed.code), closed.reason.as_str()), (1013, "too slow: the send queue is full"));
    drop(slow);
    gateway.metric_is("gateway_disconnections_total{reason=\"send_queue_full\"}", 1.0).await;
    assert!(gateway.metric(DROPPED).await >= 1.0);
    gateway.metric_is("gateway_sessions", 1.0).await;
    other.assert_alive().await;
}

/// Sends the bytes repeatedly, up to `most` bytes in all, and reads nothing. Returns the error if a write failed, and
/// the gateway's peak resident memory in bytes.
async fn pour(gateway: &Gateway, wire: &mut Wire, bytes: &[u8], most: u64) -> (Option<io::Error>, u64) {
    let mut held = 0;
    for _ in 0..most / bytes.len() as u64 {
        let written = time::timeout(PATIENCE, wire.stream.write_all(bytes))
            .await
            .expect("the gateway neither reads nor closes the connection");
        held = held.max(gateway.resident_bytes());
        if let Err(error) = written {
            return (Some(error), held);
        }
    }
    (None, held)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_its_replies_costs_no_memory_and_is_disconnected() {
    let gateway = Gateway::start(Setup::server("ping_interval_s: 1, idle_timeout_s: 2")).await;
    let mut wire = Wire::upgraded(gateway.address).await;
    let mut other = gateway.client().await;
    other.assert_alive().await;
    let before = gateway.resident_bytes();
    let beat = frame(BINARY, &[&[0, 0, 0, 1, 3, 0, 0, 0][..], &[0x7e; 64 * 1024]].concat());
    let (error, most) = pour(&gateway, &mut wire, &beat, 256 * MIB).await;
    assert!(error.is_some(), "the gateway read 256 MiB of heartbeats from a client that reads no reply");
    let grown = most.saturating_sub(before) / MIB;
    assert!(grown < 16, "the gateway grew by {grown} MiB");
    gateway.metric_is("gateway_disconnections_total{reason=\"write_timeout\"}", 1.0).await;
    gateway.client().await.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_its_pongs_costs_no_memory() {
    // The limit of control frames is raised, so that the client may send this many pings.
    let server = "ping_interval_s: 5, idle_timeout_s: 10, control_frames_per_s: 1000000";
    let gateway = Gateway::start(Setup::server(server)).await;
    let mut wire = Wire::upgraded(gateway.address).await;
    gateway.client().await.assert_alive().await;
    let before = gateway.resident_bytes();
    let pings = frame(PING, &[0x7e; 125]).repeat(512);
    let (_, most) = pour(&gateway, &mut wire, &pings, 128 * MIB).await;
    let grown = most.saturating_sub(before) / MIB;
    assert!(grown < 16, "the gateway grew by {grown} MiB");
    gateway.client().await.assert_alive().await;
}
