//! Tests of pushes that wait for a client that reads slowly: a `latest` push takes the place of an older one, and
//! `may-drop` pushes are the first to be dropped.

use crate::{ZEBRA, ask, ask_on, connect, start_both};
use gateway_proto::Welcome;
use gateway_tests::{
    Client, Gateway, PATIENCE, Setup, probe,
    wire::{BINARY, UPGRADE, Wire},
};
use prost::Message;
use std::time::Duration;
use tokio::{
    net::TcpSocket,
    time::{Instant, sleep},
};

const DROPPED: &str = "gateway_messages_dropped_total{reason=\"send_queue_full\"}";
const REPLACED: &str = "gateway_messages_replaced_total";

const PUSHED: &str = "gateway_plugin_pushes_total{plugin=\"probe\"}";

/// The length of a push that fills the buffers of the system.
const LARGE: usize = 65_536;

/// A push as the slow client receives it: its number, its flags and its text.
type Push = (u32, u8, String);

/// A client in group 5 that reads only when the test says so. Few bytes fit between it and the gateway.
struct Slow {
    wire: Wire,
    session: String,
}

impl Slow {
    /// Connects, and lets the plugin fill the way to the client with `larges` large pushes, of which the last ones
    /// wait in the send queue.
    async fn start(gateway: &Gateway, other: &mut Client, larges: u32) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        let mut wire = Wire { stream: socket.connect(gateway.address).await.unwrap() };
        wire.send(UPGRADE.replace("/ws", "/ws?do=join+5").as_bytes()).await;
        assert_eq!(wire.response().await.status, 101);
        let (_, welcome) = wire.frame().await.unwrap();
        let session = Welcome::decode(welcome.slice(8..)).unwrap().session_id;
        ask(other, &format!("repeat {larges} deliver group:5 always x*{LARGE}")).await;
        is_stuck(gateway).await;
        Self { wire, session }
    }

    async fn read(&mut self) -> Push {
        let (first, packet) = self.wire.frame().await.expect("a push");
        assert_eq!((first, packet[6], packet[7]), (BINARY, 0, 0));
        let seq = u32::from_be_bytes(packet[..4].try_into().unwrap());
        (seq, packet[5], String::from_utf8(packet[8..].to_vec()).unwrap())
    }

    /// Reads the large pushes, which are the first ones and of which none is missing.
    async fn read_larges(&mut self, larges: u32) {
        for seq in 1..=larges {
            let (number, flags, text) = self.read().await;
            assert_eq!((number, flags, text.len()), (seq, 0, LARGE));
        }
    }
}

/// Waits until the gateway sends nothing any more.
async fn is_stuck(gateway: &Gateway) {
    let deadline = Instant::now() + PATIENCE;
    let (mut sent, mut looks) = (0.0, 0);
    while looks < 20 {
        assert!(Instant::now() < deadline, "the gateway sends without end");
        let now = gateway.metric("gateway_messages_sent_total").await;
        looks = if now > sent { 0 } else { looks + 1 };
        sent = now;
        sleep(Duration::from_millis(10)).await;
    }
}

fn push(seq: u32, flags: u8, text: &str) -> Push {
    (seq, flags, text.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_gets_the_newest_of_each_key_without_a_gap_and_flag_2_says_so() {
    let gateway = Gateway::start(patient("")).await;
    let mut other = connect(&gateway, "").await;
    let mut slow = Slow::start(&gateway, &mut other, 40).await;
    ask(&mut other, "deliver group:5 always before; deliver group:5 latest:3 alone").await;
    for _ in 0..10 {
        ask(&mut other, "repeat 100 deliver group:5 latest:1 a#; repeat 100 deliver group:5 latest:2 b#").await;
    }
    ask(&mut other, "deliver group:5 always after").await;
    slow.read_larges(40).await;
    let expected = [(0, "before"), (0, "alone"), (2, "a99"), (2, "b99"), (0, "after")];
    for (seq, (flags, text)) in (41..).zip(expected) {
        assert_eq!(slow.read().await, push(seq, flags, text));
    }
    gateway.metric_is(REPLACED, 1998.0).await;
    gateway.metric_is(DROPPED, 0.0).await;
    // Nothing waits now, so nothing is replaced.
    ask(&mut other, "deliver group:5 latest:1 again").await;
    assert_eq!(slow.read().await, push(46, 0, "again"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_two_plugins_are_separate() {
    let gateway = start_both().await;
    let mut other = connect(&gateway, "").await;
    let mut slow = Slow::start(&gateway, &mut other, 20).await;
    let script = |text| format!("deliver session:{} latest:1 {text}", slow.session);
    ask(&mut other, &script("old")).await;
    ask_on(&mut other, ZEBRA, &script("of zebra")).await;
    ask(&mut other, &script("of probe")).await;
    slow.read_larges(20).await;
    assert_eq!(slow.read().await, push(21, 2, "of probe"));
    assert_eq!(slow.read().await, push(22, 0, "of zebra"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_queue_is_full_droppable_pushes_go_first_and_leave_a_gap() {
    let gateway = Gateway::start(patient("send_queue: 30")).await;
    let mut other = connect(&gateway, "").await;
    let mut slow = Slow::start(&gateway, &mut other, 20).await;
    ask(&mut other, "repeat 100 deliver group:5 may-drop m#").await;
    gateway.metric_is(PUSHED, 120.0).await;
    let refused = gateway.metric(DROPPED).await;
    assert!((60.0..100.0).contains(&refused), "{refused} of 100 found no room");
    ask(&mut other, "repeat 5 deliver group:5 always k#").await;
    gateway.metric_is(DROPPED, refused + 5.0).await;
    slow.read_larges(20).await;
    // The newest droppable pushes found no room, and the oldest five made room for the others.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let fitted = 100 - refused as u32;
    for i in 5..fitted {
        assert_eq!(slow.read().await, push(21 + i, 0, &format!("m{i}")));
    }
    for i in 0..5 {
        assert_eq!(slow.read().await, push(121 + i, 0, &format!("k{i}")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_droppable_push_that_finds_no_room_does_not_close_the_session() {
    let gateway = Gateway::start(patient("send_queue: 20, on_full_queue: close")).await;
    let mut other = connect(&gateway, "").await;
    let mut slow = Slow::start(&gateway, &mut other, 15).await;
    ask(&mut other, "repeat 100 deliver group:5 may-drop m#; repeat 100 deliver group:5 latest:# l").await;
    gateway.metric_is(PUSHED, 215.0).await;
    assert!(gateway.metric(DROPPED).await >= 180.0);
    gateway.metric_is("gateway_sessions", 2.0).await;
    slow.read_larges(15).await;
    assert_eq!(slow.read().await, push(16, 0, "m0"));
}

/// Returns the setup of the plugin `probe` with these keys of `server`. Calls may take long, because they return a lot.
fn patient(server: &str) -> Setup {
    let setup = crate::setup("call_timeout_ms: 5000");
    Setup { server: server.to_owned(), files: vec![("probe.wasm", probe())], ..setup }
}
