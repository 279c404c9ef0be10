//! Tests of a faulty Redis: it hangs, closes connections again and again, refuses commands, or sends too large
//! messages. The tests check how soon the gateway notices, and what each fault costs.

use super::{BROADCAST, CHAT, REQUESTS, assert_pushed, broadcast, connected};
use gateway_tests::{Gateway, Redis, Setup, chat_request, eventually};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};

/// The maximum time until the gateway notices that Redis hangs: the defaults of `redis.timeout_ms` and of
/// `redis.probe_interval_ms`, which are 2 s and 1 s, and 4.5 s of slack for a busy machine. The slack is less than the
/// grace period of 5 s, so a gateway that waits for the grace period as well fails the test.
const SOON: Duration = Duration::from_millis(2000 + 1000 + 4500);

/// Returns the setup of a gateway with this Redis and the default timeout.
fn by_default(redis: &Redis) -> Setup {
    Setup::redis_with(redis, "")
}

/// Returns the setup of a gateway that uses the server on this port as its Redis.
fn on(port: u16) -> Setup {
    Setup { yaml: format!("games: [{{ id: mmo }}]\nredis: {{ addr: \"127.0.0.1:{port}\" }}"), ..Setup::default() }
}

#[tokio::test]
async fn requests_to_a_redis_that_hangs_are_answered_within_the_timeout() {
    let redis = Redis::start().await;
    let gateway = connected(by_default(&redis)).await;
    let _backend = redis.subscribe(REQUESTS).await;
    let mut client = gateway.client().await;
    redis.signal("STOP").await;
    for round in 0..3 {
        // The first request is in flight when the gateway gives up the connection. The gateway refuses the later
        // requests because it has no connection.
        let began = Instant::now();
        let reply = client.request(CHAT, &chat_request("mmo", 7, "hi")).await;
        assert_eq!(reply.status, 5, "{reply:?}");
        assert!(began.elapsed() < SOON, "round {round}: {:?}", began.elapsed());
    }
    redis.signal("CONT").await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
}

/// Asserts that `/readyz` answers 503 soon after Redis hangs, and that the report contains `because`.
async fn is_red(setup: impl FnOnce(&Redis) -> Setup, because: &str) {
    let redis = Redis::start().await;
    let gateway = connected(setup(&redis)).await;
    assert_eq!(gateway.get("/readyz").await.0, 200);
    redis.signal("STOP").await;
    let began = Instant::now();
    // At first, the reason is that an answer is late.
    eventually(&format!("/readyz 503 with {because}"), || async {
        let (status, report) = gateway.get("/readyz").await;
        (status == 503 && report.contains(because)).then_some(())
    })
    .await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    redis.signal("CONT").await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
}

#[tokio::test]
async fn readyz_is_503_within_the_timeout_when_redis_hangs() {
    is_red(by_default, "it does not answer within 2s (`redis.timeout_ms`)").await;
}

#[tokio::test]
async fn the_timeout_is_configurable() {
    is_red(|redis| Setup::redis_with(redis, "timeout_ms: 700"), "it does not answer within 700ms (`redis.timeout_ms`)")
        .await;
}

/// Runs a server that accepts every connection, answers the greeting, and then closes the connection.
async fn breaks_off(listener: TcpListener, connections: Arc<AtomicUsize>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(greet(stream));
    }
}

async fn greet(mut stream: TcpStream) -> std::io::Result<()> {
    let mut input = [0; 1024];
    for answer in ["%1\r\n+server\r\n+redis\r\n", "+PONG\r\n"] {
        let _ = stream.read(&mut input).await?;
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_gateway_reconnects_with_growing_pauses_if_redis_closes_connections_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, connections) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(breaks_off(listener, Arc::clone(&connections)));
    let began = Instant::now();
    let gateway = Gateway::start(on(port)).await;
    let count = || connections.load(Ordering::Relaxed);
    eventually("20 connection attempts", || async { (count() >= 20).then_some(()) }).await;
    // The gateway has two connections, and each of them makes about ten attempts. Between attempts, a connection pauses
    // for at least 50, 100, 200 and then always 250 ms. So ten attempts take about 2 s.
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1), "{} connections in {took:?}", count());
    let lines = gateway.log_lines();
    let warnings = lines.iter().filter(|line| line.to_string().contains("bus not connected")).count();
    let most = 2 * (began.elapsed().as_secs() as usize + 2);
    assert!((1..=most).contains(&warnings), "{warnings} warnings, at most {most} are allowed: {lines:#?}");
}

#[tokio::test]
async fn a_gateway_that_redis_forbids_to_subscribe_retries_with_pauses_and_few_warnings() {
    let redis = Redis::start().await;
    let mut backend = redis.connection().await;
    redis::cmd("ACL").arg(&["SETUSER", "default", "-subscribe"]).exec_async(&mut backend).await.unwrap();
    let began = Instant::now();
    let gateway = Gateway::start(Setup::redis(&redis)).await;
    let rejected = || async {
        let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut backend.clone()).await.unwrap();
        let subscribe = stats.lines().find(|line| line.starts_with("cmdstat_subscribe:"))?;
        let (_, rejected) = subscribe.split_once("rejected_calls=")?;
        rejected.split(',').next()?.parse::<usize>().ok()
    };
    // Each connection sends two of them: one for the channel of the probes, and one for the topics.
    eventually("Redis refuses SUBSCRIBE 16 times", || async { rejected().await.filter(|&refusals| refusals >= 16) })
        .await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    let lines = gateway.log_lines();
    let warnings = lines.iter().filter(|line| line.to_string().contains("bus not connected")).count();
    let most = began.elapsed().as_secs() as usize + 2;
    assert!((1..=most).contains(&warnings), "{warnings} warnings, at most {most} are allowed: {lines:#?}");
    eventually("/readyz 503 with the refusal", || async {
        let (status, report) = gateway.get("/readyz").await;
        (status == 503 && report.contains("it refused SUBSCRIBE: NOPERM")).then_some(())
    })
    .await;
    // The gateway cannot receive answers. Therefore it refuses requests instead of publishing them.
    let mut client = gateway.client().await;
    assert_eq!(client.request(CHAT, &chat_request("mmo", 7, "hi")).await.text(), "the bus is not connected");
    assert_eq!(gateway.metric("gateway_bus_published_total").await, 0.0);
}

#[tokio::test]
async fn a_bus_message_over_max_message_bytes_is_dropped_and_the_next_one_is_delivered() {
    let redis = Redis::start().await;
    let gateway = connected(Setup { server: "max_message_bytes: 65536".to_owned(), ..Setup::redis(&redis) }).await;
    let mut client = gateway.client_of(7).await;
    for number in 1..=3 {
        assert_eq!(redis.publish(BROADCAST, &vec![0; 8 << 20]).await, 1);
        assert_eq!(redis.publish(BROADCAST, &broadcast(7, number)).await, 1);
        assert_pushed(&mut client, number as u32, &broadcast(7, number)).await;
    }
    let dropped = "gateway_messages_dropped_total{reason=\"bus_message_too_large\"}";
    assert_eq!(gateway.metric(dropped).await, 3.0);
    gateway.logged("bus message dropped").await;
    let lines = gateway.log_lines();
    assert!(!lines.iter().any(|line| line.to_string().contains("bus not connected")), "{lines:#?}");
}
