//! Clients that read slowly or not at all: how much the gateway serves ahead of them, and that a slow reader is not cut off.

use crate::{backend, delivery, publish, start};
use gateway_tests::{
    Gateway, PATIENCE, Setup, chat_request, in_time,
    wire::{BINARY, CLOSE, PING, PONG, UPGRADE, Wire, frame},
};
use std::{io, time::Duration};
use tokio::{
    io::AsyncReadExt,
    net::TcpSocket,
    time::{self, Instant},
};

/// A connection whose receive buffer is small, so that little is under way between the gateway and its reader.
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

/// The bytes of a reply in the tests of `write_buffer_bytes`, header included.
const REPLY: usize = 1008;

/// The packets that the gateway has served for a client that sends without end and never reads, and whose replies it has not finished to write.
async fn served_ahead(write_buffer_bytes: usize) -> f64 {
    let server = format!("write_buffer_bytes: {write_buffer_bytes}, idle_timeout_s: 300");
    let gateway = Gateway::start(Setup { server, ..Setup::default().patient() }).await;
    let wire = narrow(&gateway).await;
    let beat = frame(BINARY, &[&[0, 0, 0, 1, 3, 0, 0, 0][..], &[0x7e; REPLY - 8]].concat());
    let mut written = 0;
    let mut looks = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    // It has come to a stand once nothing moves in so many looks, in each of which the gateway answers.
    while looks.len() < 30 {
        assert!(Instant::now() < deadline, "the gateway reads on from a client that reads no reply: {written} bytes");
        let mut moved = false;
        loop {
            // The next byte to be sent, since a frame may be taken in part.
            match wire.stream.try_write(&beat[written % beat.len()..]) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
            moved = true;
        }
        let received = gateway.metric("gateway_messages_received_total{route=\"3\"}").await;
        // The welcome was sent as well.
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
    // Replies are gathered until there are so many bytes.
    for (write_buffer_bytes, ahead) in [(256, 1.0), (REPLY, 1.0), (REPLY + 1, 2.0), (8192, 9.0), (40 * REPLY, 40.0)] {
        assert_eq!(served_ahead(write_buffer_bytes).await, ahead, "write_buffer_bytes: {write_buffer_bytes}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_never_closed_while_it_keeps_reading() {
    const CONTENT: usize = 8 * 1024;
    const BYTES_PER_S: f64 = 800_000.0;
    // The queue takes the reader three seconds. What the kernel holds takes it some more, so that its pongs come late. It would reach the limits
    // within the test if its reading did not count.
    let server = "send_queue_bytes: 2097152, send_timeout_s: 10, ping_interval_s: 1, idle_timeout_s: 3";
    let (redis, gateway) = start(server).await;
    let mut wire = narrow(&gateway).await;
    let request = chat_request("mmo", 1, "");
    wire.send(&frame(BINARY, &[&[0, 0, 0, 1, 1, 0, 0, 0], &request[..]].concat())).await;
    let mut backend = backend(&redis).await;
    let payload = delivery(1, &"x".repeat(CONTENT));
    let began = Instant::now();
    let (mut read, mut bytes) = (0, Vec::new());
    while began.elapsed() < Duration::from_secs(25) {
        // Far more than it reads, so that its queue is always full.
        publish(&mut backend, &payload, 64).await;
        while (read as f64) < began.elapsed().as_secs_f64() * BYTES_PER_S {
            let mut part = vec![0; 32 << 10];
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
    assert!(dropped > 1000.0, "it was not slow: {dropped} were dropped");
}

/// Takes the frames that are whole out of what was read and answers pings. True if there is a close frame among them.
async fn answer_pings(wire: &mut Wire, bytes: &mut Vec<u8>) -> bool {
    loop {
        let (head, len) = match bytes[..] {
            [_, len @ ..126, ..] => (2, usize::from(len)),
            [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
            [_, len, ..] if len > 126 => panic!("a longer frame than any that was sent"),
            _ => return false,
        };
        if bytes.len() < head + len {
            return false;
        }
        let first = bytes[0];
        let payload: Vec<_> = bytes.drain(..head + len).skip(head).collect();
        match first {
            PING => wire.send(&frame(PONG, &payload)).await,
            CLOSE => return true,
            _ => {}
        }
    }
}
