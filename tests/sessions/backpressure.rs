//! Tests of clients that read slowly or not at all. The gateway serves only a bounded number of packets ahead of a
//! client. A slow client is not disconnected while it keeps reading.

use crate::{backend, delivery, publish, start};
use gateway_tests::{
    Gateway, PATIENCE, Setup, chat_request, eventually, header, in_time,
    wire::{BINARY, CLOSE, PING, PONG, UPGRADE, Wire, frame},
};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    time::{self, Instant},
};

/// Returns a connection with a small receive buffer, so that few bytes are in flight between the gateway and the
/// client.
async fn narrow(gateway: &Gateway) -> Wire {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut wire = Wire { stream: socket.connect(gateway.address).await.unwrap() };
    wire.send(UPGRADE.as_bytes()).await;
    assert_eq!(wire.response().await.status, 101);
    let (first, _welcome) = wire.frame().await.expect("a welcome");
    assert_eq!(first, BINARY);
    wire
}

/// The length of a reply in the test of `write_buffer_bytes`, in bytes, including the packet header.
const REPLY: usize = 1008;

/// Lets a client send without end and never read. Returns the number of packets that the gateway has served and has not
/// finished answering when it stops reading.
async fn served_ahead(write_buffer_bytes: usize) -> f64 {
    let server = format!("write_buffer_bytes: {write_buffer_bytes}, idle_timeout_s: 300");
    let gateway = Gateway::start(Setup { server, ..Setup::default().patient() }).await;
    let wire = narrow(&gateway).await;
    let beat = frame(BINARY, &[&[0, 0, 0, 1, 3, 0, 0, 0][..], &[0x7e; REPLY - 8]].concat());
    let mut written = 0;
    let mut looks = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    // The loop ends when 100 samples in a row show no progress, which takes a second. TCP itself may pause for some
    // tenths of a second before it fills a small window. Each sample is a pair of metrics that the gateway reports.
    while looks.len() < 100 {
        assert!(
            Instant::now() < deadline,
            "the gateway does not stop reading from a client that never reads: {written} bytes"
        );
        let mut moved = false;
        loop {
            // A write may send only a part of a frame. The next write continues at the first unsent byte.
            match wire.stream.try_write(&beat[written % beat.len()..]) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
            moved = true;
        }
        let received = gateway.metric("gateway_messages_received_total{route=\"3\"}").await;
        // The metric also counts the welcome, which is no reply.
        let sent = gateway.metric("gateway_messages_sent_total").await - 1.0;
        if moved || looks.last().is_some_and(|last| *last != (received, sent)) {
            looks.clear();
        }
        looks.push((received, sent));
        time::sleep(Duration::from_millis(10)).await;
    }
    let (received, sent) = looks[0];
    received - sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_buffer_bytes_bounds_the_replies_that_are_served_ahead_of_a_client_that_does_not_read() {
    // The gateway gathers replies until they have `write_buffer_bytes` bytes.
    for (write_buffer_bytes, ahead) in [(256, 1.0), (REPLY, 1.0), (REPLY + 1, 2.0), (8192, 9.0), (40 * REPLY, 40.0)] {
        assert_eq!(served_ahead(write_buffer_bytes).await, ahead, "write_buffer_bytes: {write_buffer_bytes}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_never_closed_while_it_keeps_reading() {
    const CONTENT: usize = 8 * 1024;
    const BYTES_PER_S: f64 = 200_000.0;
    // The client needs about 3 s to read a full send queue, and its pongs are late by as much. If its reading did not
    // count as activity, or counted only in steps of megabytes, the session would exceed the limits during the test.
    let server = "send_queue_bytes: 524288, send_timeout_s: 10, ping_interval_s: 1, idle_timeout_s: 3";
    let (redis, gateway) = start(server).await;
    let mut wire = narrow(&gateway).await;
    let request = chat_request("mmo", 1, "");
    wire.send(&frame(BINARY, &[&[0, 0, 0, 1, 1, 0, 0, 0], &request[..]].concat())).await;
    // The answer is status 5, since no backend listens. The session is bound by then. A message before that would be lost,
    // and the client would wait for it for ever.
    let (_, answer) = wire.frame().await.expect("an answer");
    assert_eq!(answer[..8], [0, 0, 0, 1, 1, 1, 0, 5], "{answer:?}");
    let mut backend = backend(&redis).await;
    let payload = delivery(1, &"x".repeat(CONTENT));
    let began = Instant::now();
    let (mut read, mut bytes) = (0, Vec::new());
    while began.elapsed() < Duration::from_secs(25) {
        // The backend publishes far more than the client reads, so the send queue is always full.
        publish(&mut backend, &payload, 64).await;
        // The client reads less than was published, so that it does not wait for bytes that nobody sends. On a machine
        // that stopped for a while, it catches up in several turns.
        let turn = read + 32 * CONTENT;
        while read < turn && (read as f64) < began.elapsed().as_secs_f64() * BYTES_PER_S {
            let mut part = vec![0; 8 << 10];
            let came = in_time("bytes for a client that reads", wire.stream.read(&mut part)).await;
            let came = came.unwrap_or_else(|error| panic!("after {:?}: {error}", began.elapsed()));
            assert!(came > 0, "the connection ended after {:?}", began.elapsed());
            read += came;
            bytes.extend_from_slice(&part[..came]);
            let closed = answer_pings(&mut wire, &mut bytes).await;
            assert!(!closed, "the session was closed after {:?}", began.elapsed());
        }
        time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(gateway.metric("gateway_sessions").await, 1.0);
    for reason in ["send_timeout", "write_timeout", "idle", "send_queue_full"] {
        let ended = format!("gateway_disconnections_total{{reason={reason:?}}}");
        assert_eq!(gateway.metric(&ended).await, 0.0, "{reason}");
    }
    let dropped = gateway.metric("gateway_messages_dropped_total{reason=\"send_queue_full\"}").await;
    assert!(dropped > 1000.0, "the client was not slow: only {dropped} messages were dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_send_to_a_slow_client_does_not_keep_its_packets_from_being_read_and_answered() {
    const BEATS: u32 = 20;
    let (redis, gateway) = start("send_queue: 4").await;
    let mut wire = narrow(&gateway).await;
    wire.send(&frame(BINARY, &[&header(1, 1), &chat_request("mmo", 1, "")[..]].concat())).await;
    let (_, answer) = wire.frame().await.expect("an answer");
    assert_eq!(answer[..8], [0, 0, 0, 1, 1, 1, 0, 5], "{answer:?}");
    let mut backend = backend(&redis).await;
    let (mut reading, mut writing) = wire.stream.into_split();
    let flood = tokio::spawn(async move {
        let payload = delivery(1, &"x".repeat(8 << 10));
        loop {
            publish(&mut backend, &payload, 16).await;
            time::sleep(Duration::from_millis(5)).await;
        }
    });
    let slowly = tokio::spawn(async move {
        let (mut part, mut bytes, mut replies) = (vec![0; 4 << 10], Vec::new(), 0);
        while replies < BEATS {
            let read = reading.read(&mut part).await.unwrap();
            assert!(read > 0, "the connection ended after {replies} replies");
            bytes.extend_from_slice(&part[..read]);
            while let Some((_, packet)) = take_frame(&mut bytes) {
                replies += u32::from(packet.get(4..6) == Some(&[3, 1]));
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    });
    // By then, the buffers of the system are full as well, and from then on the send queue is.
    eventually("the client is too slow", || async {
        (gateway.metric("gateway_messages_dropped_total{reason=\"send_queue_full\"}").await > 3000.0).then_some(())
    })
    .await;
    for seq in 0..BEATS {
        writing.write_all(&frame(BINARY, &header(seq, 3))).await.unwrap();
    }
    // No reply is lost, although the send queue is full.
    in_time("the replies", slowly).await.unwrap();
    assert!(!flood.is_finished());
    flood.abort();
}

/// Removes the complete frames from the bytes and answers each ping. Returns true if one of the frames is a close
/// frame.
async fn answer_pings(wire: &mut Wire, bytes: &mut Vec<u8>) -> bool {
    while let Some((first, payload)) = take_frame(bytes) {
        match first {
            PING => wire.send(&frame(PONG, &payload)).await,
            CLOSE => return true,
            _ => {}
        }
    }
    false
}

/// Removes the first frame from the bytes, if it is complete. Returns its first byte and its payload.
fn take_frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (head, len) = match bytes[..] {
        [_, len @ ..126, ..] => (2, usize::from(len)),
        [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
        [_, len, ..] if len > 126 => panic!("the frame is longer than any frame that the gateway sends in this test"),
        _ => return None,
    };
    let first = bytes[0];
    (bytes.len() >= head + len).then(|| (first, bytes.drain(..head + len).skip(head).collect()))
}
