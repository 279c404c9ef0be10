//! Tests of SIGTERM and SIGINT: the gateway accepts no more connections, queued messages still arrive, sessions close
//! with 1001, and the exit code is 0.

use crate::ready_is;
use chat_proto::chat::ChatResponse;
use gateway_tests::{
    Client, Gateway, PATIENCE, Packet, Redis, Setup, bombs, chat_request, component, eventually, header, wat,
};
use prost::Message;
use std::{
    fs,
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, net::TcpStream, process::Command, time::timeout};

/// The number of deliveries in a flood, 12.8 MB in all. The kernel cannot buffer that much for one connection, but a
/// send queue can hold all deliveries.
const DELIVERIES: u32 = 800;
/// The length of the text in each delivery, in bytes.
const CONTENT: usize = 16_000;

/// Starts a gateway with this Redis and these keys of `server`.
async fn start(redis: &Redis, server: &str) -> Gateway {
    let gateway = Gateway::start(Setup { server: server.to_owned(), ..Setup::redis(redis).patient() }).await;
    redis.subscribers_are("broadcast", 1).await;
    gateway
}

fn delivery(number: u32) -> Vec<u8> {
    let error_message = "x".repeat(CONTENT);
    ChatResponse { message_id: number.into(), target_user_id: 7, error_message, ..Default::default() }.encode_to_vec()
}

/// Returns a client that does not read. The gateway has queued far more messages for the client than the connection
/// takes.
async fn slow_reader(redis: &Redis, gateway: &Gateway) -> Client {
    let mut client = gateway.client().await;
    client.send(1, &chat_request("mmo", 7, "here I am")).await;
    client.assert_alive().await;
    let mut pipeline = redis::pipe();
    for number in 1..=DELIVERIES {
        pipeline.publish("broadcast", delivery(number)).ignore();
    }
    pipeline.query_async::<()>(&mut redis.connection().await).await.unwrap();
    gateway.metric_is("gateway_deliveries_total{outcome=\"delivered\"}", f64::from(DELIVERIES)).await;
    let sent = gateway.metric("gateway_messages_sent_total").await;
    assert!(sent < f64::from(DELIVERIES), "no message is queued, since {sent} messages were sent");
    client
}

/// Asserts that the client receives all queued messages, and then the close frame.
async fn takes_everything(client: &mut Client) {
    for number in 1..=DELIVERIES {
        let payload = delivery(number).into();
        assert_eq!(client.receive().await, Packet { seq: number, route: 1, flags: 0, status: 0, payload });
    }
    goes_away(client).await;
}

async fn goes_away(client: &mut Client) {
    let frame = client.closed().await.expect("a close frame with a code");
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1001, "the gateway stops"));
}

async fn exits_with_0(gateway: &mut Gateway) {
    assert_eq!(gateway.exit().await.code(), Some(0));
    gateway.logged("stopped").await;
}

/// Asserts that after this signal the queues are drained, the sessions close with 1001, and the exit code is 0.
async fn drains(signal: &str) {
    let redis = Redis::start().await;
    let mut gateway = start(&redis, "").await;
    let mut slow = slow_reader(&redis, &gateway).await;
    let mut idle = gateway.client().await;
    gateway.signal(signal).await;
    gateway.logged("draining").await;
    goes_away(&mut idle).await;
    takes_everything(&mut slow).await;
    exits_with_0(&mut gateway).await;
    let cut_off = gateway.log_lines().into_iter().find(|line| line.to_string().contains("cut off"));
    assert_eq!(cut_off, None);
}

#[tokio::test]
async fn sigterm_drains_the_queues_closes_sessions_with_1001_and_exits_0() {
    drains("TERM").await;
}

#[tokio::test]
async fn sigint_drains_the_queues_closes_sessions_with_1001_and_exits_0() {
    drains("INT").await;
}

#[tokio::test]
async fn a_gateway_whose_clients_have_gone_waits_for_none_of_those_it_would_send_away() {
    let server = "drain_timeout_s: 120, reconnect: { rate_per_s: 1 }".to_owned();
    let mut gateway = Gateway::start(Setup { server, ..Setup::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(gateway.client().await);
    }
    gateway.signal("TERM").await;
    gateway.logged("clients are told to connect again").await;
    let began = Instant::now();
    drop(clients);
    exits_with_0(&mut gateway).await;
    assert!(began.elapsed() < Duration::from_secs(60), "it waited for a hundred clients, one a second");
}

#[tokio::test]
async fn requests_that_wait_in_the_gateway_at_sigterm_still_reach_redis() {
    let redis = Redis::start().await;
    let mut backend = redis.subscribe("game:request:mmo").await;
    // The timeout is so long that the gateway does not notice that Redis hangs, even on a busy machine.
    let mut gateway = Gateway::start(Setup::redis_with(&redis, "timeout_ms: 60000").patient()).await;
    redis.subscribers_are("broadcast", 1).await;
    let mut client = gateway.client().await;
    let requests: Vec<_> = (0..500).map(|i| chat_request("mmo", 7, &i.to_string())).collect();
    // Redis reads nothing while the requests arrive, so they wait in the gateway.
    redis.signal("STOP").await;
    for request in &requests {
        client.send(1, request).await;
    }
    client.assert_alive().await;
    gateway.signal("TERM").await;
    gateway.logged("draining").await;
    goes_away(&mut client).await;
    redis.signal("CONT").await;
    for request in &requests {
        assert_eq!(&backend.next().await, request);
    }
    exits_with_0(&mut gateway).await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off_after_drain_timeout_s() {
    let redis = Redis::start().await;
    let mut gateway = start(&redis, "drain_timeout_s: 1").await;
    let _slow = slow_reader(&redis, &gateway).await;
    let began = Instant::now();
    gateway.signal("TERM").await;
    exits_with_0(&mut gateway).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1), "the client had too little time to read its queue: {took:?}");
    // The default is 10 s.
    assert!(took < Duration::from_secs(9), "the client delayed the exit: {took:?}");
    let line = gateway.logged("cut off: connections did not empty their send queues in time").await;
    assert_eq!((&line["level"], &line["fields"]["connections"]), (&"WARN".into(), &1.into()));
}

/// Asserts that a second signal ends a long drain at once. The exit code is 128 plus the number of the signal, which is
/// also the code that a shell reports.
async fn ends_at_once(second: &str, code: i32) {
    let redis = Redis::start().await;
    let mut gateway = start(&redis, "drain_timeout_s: 3600").await;
    let _slow = slow_reader(&redis, &gateway).await;
    gateway.signal("TERM").await;
    gateway.logged("draining").await;
    gateway.signal(second).await;
    assert_eq!(gateway.exit().await.code(), Some(code));
    gateway.logged("while the gateway stops: the process ends at once").await;
}

#[tokio::test]
async fn a_second_sigterm_ends_the_process_at_once() {
    ends_at_once("TERM", 143).await;
}

#[tokio::test]
async fn sigint_after_sigterm_ends_the_process_at_once() {
    ends_at_once("INT", 130).await;
}

#[tokio::test]
async fn a_signal_ends_the_process_while_plugins_are_still_compiled() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("slow.wasm"), component(&bombs::loops(&wat("endless")))).unwrap();
    let yaml = "server: { host: 127.0.0.1, port: 0 }\nadmin: { listen: \"127.0.0.1:0\" }\nplugins: { directory: . }\n";
    fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    let mut command = Gateway::command(None);
    let mut child = command.arg("run").current_dir(&folder).kill_on_drop(true).spawn().unwrap();
    let pid = child.id().unwrap();
    eventually("a handler for SIGTERM", || async { hears(pid, 15).then_some(()) }).await;
    assert!(Command::new("kill").arg(pid.to_string()).status().await.unwrap().success());
    let status = timeout(PATIENCE, child.wait()).await.expect("the gateway ends in time").unwrap();
    assert_eq!(status.code(), Some(0));
}

/// Returns whether the process has a handler for the signal.
fn hears(pid: u32, signal: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << (signal - 1)) != 0
}

#[tokio::test]
async fn a_gateway_that_drains_is_alive_but_not_ready_and_accepts_no_connection() {
    let redis = Redis::start().await;
    let mut gateway = start(&redis, "").await;
    let mut slow = slow_reader(&redis, &gateway).await;
    gateway.signal("TERM").await;
    gateway.logged("draining").await;
    assert_eq!(gateway.get("/healthz").await.0, 200);
    let report = ready_is(&gateway, 503).await;
    assert_eq!(report["reasons"], serde_json::json!(["the gateway stops"]));
    let refused = TcpStream::connect(gateway.address).await.map(drop).map_err(|error| error.kind());
    assert_eq!(refused, Err(std::io::ErrorKind::ConnectionRefused));
    takes_everything(&mut slow).await;
    exits_with_0(&mut gateway).await;
}

#[tokio::test]
async fn a_gateway_without_clients_stops_at_once() {
    let mut gateway = Gateway::start(Setup::default()).await;
    // During these 3 s, the gateway scans its files. The stop must not wait for the end of a scan.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let began = Instant::now();
    gateway.signal("TERM").await;
    exits_with_0(&mut gateway).await;
    // A drain may take 10 s, and the shutdown of the bus may take 5 s more.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let lines = gateway.log_lines();
    let messages = lines.iter().map(|line| line["fields"]["message"].as_str().unwrap());
    let messages: Vec<_> = messages.skip_while(|message| *message != "draining").collect();
    assert_eq!(messages, ["draining", "stopped"], "a part of the gateway ended late");
}

#[tokio::test]
async fn a_client_that_never_finishes_its_handshake_does_not_delay_the_exit() {
    let mut gateway = Gateway::start(Setup::default()).await;
    let mut half = TcpStream::connect(gateway.address).await.unwrap();
    half.write_all(b"GET /ws HTTP/1.1\r\nHost: gateway\r\n").await.unwrap();
    let mut served = gateway.client().await;
    served.assert_alive().await;
    let began = Instant::now();
    gateway.signal("TERM").await;
    goes_away(&mut served).await;
    drop(served);
    exits_with_0(&mut gateway).await;
    // A handshake may take 10 s, and so may a drain.
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
}

#[tokio::test]
async fn replies_from_before_the_signal_arrive_before_the_close_frame() {
    let mut gateway = Gateway::start(Setup::default().patient()).await;
    let mut client = gateway.client().await;
    let beats = 200;
    client.send_messages((1..=beats).map(|seq| header(seq, 3))).await;
    gateway.metric_is("gateway_messages_received_total{route=\"3\"}", f64::from(beats)).await;
    gateway.signal("TERM").await;
    for seq in 1..=beats {
        assert_eq!(client.receive().await.seq, seq);
    }
    goes_away(&mut client).await;
    exits_with_0(&mut gateway).await;
}

#[tokio::test]
async fn deliveries_to_a_session_that_is_about_to_end_are_counted_as_session_closing() {
    let redis = Redis::start().await;
    let mut gateway = start(&redis, "drain_timeout_s: 300, idle_timeout_s: 300").await;
    let mut slow = slow_reader(&redis, &gateway).await;
    let closing = "gateway_messages_dropped_total{reason=\"session_closing\"}";
    assert_eq!(gateway.metric(closing).await, 0.0);
    gateway.signal("TERM").await;
    gateway.logged("draining").await;
    // The session soon starts to drain its queue. From then on, it takes no more deliveries.
    let mut delivered = DELIVERIES;
    let deadline = Instant::now() + PATIENCE;
    while gateway.metric(closing).await < 9.0 {
        assert!(Instant::now() < deadline, "the session takes deliveries although it is about to end");
        delivered += 1;
        assert_eq!(redis.publish("broadcast", &delivery(delivered)).await, 1);
    }
    gateway.metric_is("gateway_deliveries_total{outcome=\"delivered\"}", f64::from(delivered)).await;
    let dropped = gateway.metric(closing).await as u32;
    for number in 1..=delivered - dropped {
        let payload = delivery(number).into();
        assert_eq!(slow.receive().await, Packet { seq: number, route: 1, flags: 0, status: 0, payload });
    }
    goes_away(&mut slow).await;
    exits_with_0(&mut gateway).await;
}
