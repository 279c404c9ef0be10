//! Tests of pings, and of the end of sessions that do not answer them.

use gateway_tests::{
    Gateway, Setup, greeter, in_time,
    wire::{BINARY, CLOSE, PING, PONG, Wire, frame},
};
use std::time::Duration;
use tokio::{
    io::AsyncReadExt,
    time::{self, Instant},
};

const SECOND: Duration = Duration::from_secs(1);

/// Starts a gateway with this `idle_timeout_s`. The client of a test whose session has to live on may be late by as much.
async fn start(idle_timeout_s: u32) -> Gateway {
    Gateway::start(Setup::server(&format!("ping_interval_s: 1, idle_timeout_s: {idle_timeout_s}"))).await
}

#[tokio::test]
async fn a_session_that_is_silent_ends_after_idle_timeout_s() {
    let gateway = start(2).await;
    let began = Instant::now();
    let mut silent = Wire::upgraded(gateway.address).await;
    let mut pings = 0;
    let code = loop {
        match silent.frame().await.expect("a frame") {
            (PING, _) => pings += 1,
            (CLOSE, payload) => break u16::from_be_bytes(*payload.first_chunk().unwrap()),
            other => panic!("{other:?}"),
        }
    };
    let lived = began.elapsed();
    assert_eq!(code, 1001);
    // One ping, and another one if the first was late, as it is on a machine that is busy: such a delay is no silence.
    assert!((1..=5).contains(&pings), "{pings} pings");
    // The default is 60 s.
    assert!((SECOND * 2..SECOND * 20).contains(&lived), "it ended after {lived:?}");
    drop(silent);
    gateway.metric_is("gateway_disconnections_total{reason=\"idle\"}", 1.0).await;
    gateway.metric_is("gateway_sessions", 0.0).await;
    gateway.client().await.assert_alive().await;
}

#[tokio::test]
async fn the_gateway_pings_at_ping_interval_s_and_a_session_that_answers_lives_on() {
    let gateway = start(6).await;
    let began = Instant::now();
    let mut wire = Wire::upgraded(gateway.address).await;
    for i in 1..=8 {
        let (first, payload) = wire.frame().await.expect("a ping");
        assert_eq!(first, PING);
        let due = SECOND * i;
        let came = began.elapsed();
        // The default is 25 s.
        assert!(came >= due && came < due + SECOND * 15, "ping {i} came after {came:?}");
        wire.send(&frame(PONG, &payload)).await;
    }
    assert!(began.elapsed() > SECOND * 6, "the session has not lived for an idle timeout yet");
    gateway.metric_is("gateway_sessions", 1.0).await;
}

#[tokio::test]
async fn any_message_of_the_client_is_a_sign_of_life() {
    let gateway = start(6).await;
    let mut pings_only = Wire::upgraded(gateway.address).await;
    let mut last = Instant::now();
    let began = last;
    // A session that does not count its own pings is closed by then.
    while last.duration_since(began) <= SECOND * 7 {
        // The client sends its own pings, but never a pong.
        match pings_only.frame().await.expect("the session lives") {
            (PING, _) => pings_only.send(&frame(PING, b"I live")).await,
            (PONG, payload) => {
                assert_eq!(payload, "I live");
                last = Instant::now();
            }
            other => panic!("{other:?}"),
        }
    }
    gateway.metric_is("gateway_sessions", 1.0).await;
}

/// Reads frames up to the reply to this heartbeat, and answers pings meanwhile.
async fn assert_serves(wire: &mut Wire, seq: u8) {
    wire.send(&frame(BINARY, &[0, 0, 0, seq, 3, 0, 0, 0])).await;
    loop {
        match wire.frame().await.expect("the session lives") {
            (PING, payload) => wire.send(&frame(PONG, &payload)).await,
            (PONG, _) => {}
            (BINARY, reply) if reply[..8] == [0, 0, 0, seq, 3, 1, 0, 0] => return,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_a_large_answer_slowly_is_not_silent_meanwhile() {
    let server = "ping_interval_s: 1, idle_timeout_s: 4".to_owned();
    let gateway = Gateway::start(Setup { server, ..Setup::default().patient() }).await;
    let mut wire = Wire::upgraded(gateway.address).await;
    let payload = vec![0x42; 14 << 20];
    wire.send(&frame(BINARY, &[&[0, 0, 0, 1, 3, 0, 0, 0][..], &payload].concat())).await;
    let began = Instant::now();
    // The client cannot answer pings, since they are queued after the reply. It sends its own pings instead. The head
    // of the frame has 10 bytes.
    let mut left = 10 + 8 + payload.len();
    while left > 0 {
        let part = left.min(1 << 20);
        in_time("more of the answer", wire.stream.read_exact(&mut vec![0; part])).await.unwrap();
        left -= part;
        wire.send(&frame(PING, b"I read")).await;
        time::sleep(SECOND * 7 / 10).await;
    }
    assert!(began.elapsed() > SECOND * 9);
    assert_serves(&mut wire, 2).await;
    gateway.metric_is("gateway_disconnections_total{reason=\"idle\"}", 0.0).await;
}

#[tokio::test]
async fn a_session_is_not_silent_while_the_gateway_itself_does_not_run() {
    let gateway = start(4).await;
    let mut wire = Wire::upgraded(gateway.address).await;
    assert_serves(&mut wire, 1).await;
    gateway.signal("STOP").await;
    time::sleep(SECOND * 5).await;
    gateway.signal("CONT").await;
    assert_serves(&mut wire, 2).await;
    // The session answers the next pings, and goes on.
    for _ in 0..3 {
        let (first, payload) = wire.frame().await.expect("a ping");
        assert_eq!(first, PING, "{payload:?}");
        wire.send(&frame(PONG, &payload)).await;
    }
    gateway.metric_is("gateway_disconnections_total{reason=\"idle\"}", 0.0).await;
}

/// Waits until no more bytes arrive at the client, which reads none.
async fn is_full(wire: &Wire) {
    let mut buffer = vec![0; 16 << 20];
    let (mut arrived, mut looks) = (0, 0);
    while looks < 50 {
        let now = in_time("bytes of the answer", wire.stream.peek(&mut buffer)).await.unwrap();
        looks = if now > arrived { 0 } else { looks + 1 };
        arrived = now;
        time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_not_read_while_the_gateway_did_not_run_has_time_to_read() {
    let server = "ping_interval_s: 1, idle_timeout_s: 4".to_owned();
    let gateway = Gateway::start(Setup { server, ..Setup::default().patient() }).await;
    let mut wire = Wire::upgraded(gateway.address).await;
    let payload = vec![0x42; 14 << 20];
    wire.send(&frame(BINARY, &[&[0, 0, 0, 1, 3, 0, 0, 0][..], &payload].concat())).await;
    // The answer is larger than the buffers of the system, so the gateway waits for the client.
    is_full(&wire).await;
    gateway.signal("STOP").await;
    time::sleep(SECOND * 5).await;
    gateway.signal("CONT").await;
    // The gateway runs again, and its timer has fired.
    gateway.metric_is("gateway_disconnections_total{reason=\"write_timeout\"}", 0.0).await;
    let (first, reply) = wire.frame().await.expect("the reply");
    assert_eq!((first, &reply[..8]), (BINARY, &[0, 0, 0, 1, 3, 1, 0, 0][..]));
    assert!(reply[8..] == payload);
    assert_serves(&mut wire, 2).await;
    gateway.metric_is("gateway_disconnections_total{reason=\"write_timeout\"}", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_waits_for_a_slow_plugin_is_not_silent_meanwhile() {
    let server = "ping_interval_s: 1, idle_timeout_s: 2".to_owned();
    // This is processor time, of which a new plugin gets little on a busy machine.
    let yaml = "plugins: { directory: plugins, settings: { slow: { call_timeout_ms: 2500 } } }".to_owned();
    let files = vec![("slow.wasm", greeter("slow", "1", &[0x41]))];
    let gateway = Gateway::start(Setup { server, yaml, files, ..Setup::default() }).await;
    let mut wire = Wire::upgraded(gateway.address).await;
    wire.send(&frame(BINARY, b"\0\0\0\x01\x41\0\0\0loop")).await;
    // The gateway neither reads nor pings while it waits for the call, which takes longer than the idle timeout.
    let began = Instant::now();
    let reply = loop {
        match wire.frame().await.expect("the session lives") {
            (PING, payload) => wire.send(&frame(PONG, &payload)).await,
            (BINARY, reply) => break reply,
            other => panic!("{other:?}"),
        }
    };
    assert!(began.elapsed() > SECOND * 2, "the call took only {:?}", began.elapsed());
    assert_eq!(reply[..8], [0, 0, 0, 1, 0x41, 1, 0, 8]);
    assert_serves(&mut wire, 2).await;
    gateway.metric_is("gateway_disconnections_total{reason=\"idle\"}", 0.0).await;
}
