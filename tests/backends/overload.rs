//! Tests of backends that publish more than the gateway takes: Redis cuts its subscription, memory stays bounded, and
//! sessions are served and told.

use super::{BROADCAST, assert_pushed, broadcast, connected, heard::Heard};
use chat_proto::chat::MessageBroadcast;
use gateway_tests::{Client, Gateway, Publisher, Redis, Setup, eventually};
use gateway_wire::resp;
use prost::Message;
use std::time::Duration;
use tokio::time::{self, Instant};

const GAPS: &str = "gateway_bus_gaps_total";
const HERE: &str = "gateway_bus_received_total{outcome=\"here\"}";

/// The bytes of a large message.
const LARGE: usize = 64 << 10;

/// The topic of the user to whom the floods go.
const TOPIC: &str = "broadcast:user:7";

/// Returns a large message for user 7.
fn large(number: i64) -> Vec<u8> {
    let content = "x".repeat(LARGE);
    MessageBroadcast { message_id: number, content, target_user_id: 7, ..Default::default() }.encode_to_vec()
}

/// Starts a gateway with two sessions: one of user 7, and one of user 8.
async fn stage(redis: &Redis, server: &str) -> (Gateway, Client, Client) {
    let setup = Setup { server: server.to_owned(), ..Setup::redis(redis) };
    let gateway = connected(setup.patient()).await;
    let (flooded, other) = (gateway.client_of(7).await, gateway.client_of(8).await);
    redis.subscribers_are(TOPIC, 1).await;
    redis.subscribers_are("broadcast:user:8", 1).await;
    (gateway, flooded, other)
}

/// Receives packets until the client has been told of a gap.
async fn until_told(client: &mut Client, heard: &mut Heard) {
    while heard.gaps == 0 {
        heard.add(&client.receive_any().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_redis_cuts_for_its_output_buffer_comes_back_and_tells_every_session() {
    let limit = ["--client-output-buffer-limit", "pubsub", "1mb", "0", "0"];
    let redis = Redis::start_with_arguments(&limit).await;
    let (gateway, mut flooded, mut other) = stage(&redis, "send_queue_bytes: 268435456").await;
    let before = gateway.log_lines().len();
    gateway.signal("STOP").await;
    // The kernel buffers some MB on the way. The first message that nobody gets shows that Redis has cut the connection.
    let mut backend = Publisher::connect(redis.port, "PUBLISH").await.unwrap();
    let mut last = 0;
    loop {
        last += 1;
        if backend.publish(&[(TOPIC, large(last))]).await.unwrap() == [Ok(0)] {
            break;
        }
        assert!(last < 1000, "Redis does not cut the connection");
    }
    gateway.signal("CONT").await;

    let (mut heard, mut heard_by_other) = (Heard::default(), Heard::default());
    until_told(&mut flooded, &mut heard).await;
    until_told(&mut other, &mut heard_by_other).await;
    assert!(heard.missing(last) > 0, "{} of {last}", heard.numbers.len());
    let line = gateway.logged_after(before, "bus not connected").await;
    assert_eq!(line["fields"]["direction"], "Subscribe", "{line}");
    gateway.metric_is(GAPS, 1.0).await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    assert_eq!(gateway.get("/readyz").await.0, 200);
    // Deliveries arrive again, and nothing that is published now is lost.
    for number in last + 1..=last + 10 {
        assert_eq!(redis.publish(TOPIC, &broadcast(7, number)).await, 1);
        assert_eq!(heard.add(&flooded.receive_any().await), Some(number));
        assert_eq!(redis.publish(BROADCAST, &broadcast(8, number)).await, 1);
        assert_eq!(heard_by_other.add(&other.receive_any().await), Some(number));
    }
    assert_eq!((heard.gaps, heard_by_other.gaps), (1, 1));
}

/// The time for which a backend floods the gateway.
const FLOOD: Duration = Duration::from_secs(3);

/// The memory that the gateway may take in a flood, in bytes: the send queue of the flooded session, which is 16 MiB, one
/// more message for each buffer on the way, and much slack for what the allocator keeps.
const MAX_GROWTH: u64 = 160 << 20;

/// Publishes large messages as fast as Redis takes them. Returns how many there were, and how many Redis has passed on to
/// the gateway.
async fn flood(port: u16) -> (usize, usize) {
    const AT_ONCE: usize = 64;
    let mut backend = Publisher::connect(port, "PUBLISH").await.unwrap();
    let mut commands = Vec::new();
    for _ in 0..AT_ONCE {
        resp::command(&mut commands, &[b"PUBLISH", TOPIC.as_bytes(), &large(1)]);
    }
    let (began, mut sent, mut passed_on) = (Instant::now(), 0, 0);
    while began.elapsed() < FLOOD {
        let answers = backend.send(&commands, AT_ONCE).await.unwrap();
        sent += AT_ONCE;
        passed_on += answers.into_iter().map(Result::unwrap).sum::<usize>();
    }
    (sent, passed_on)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "the figures are the purpose of the test")]
async fn a_flood_of_a_backend_costs_bounded_memory_and_no_heartbeat() {
    let redis = Redis::start().await;
    let (gateway, mut flooded, mut other) = stage(&redis, "").await;
    let before = gateway.resident_bytes();
    let began = Instant::now();
    let backend = tokio::spawn(flood(redis.port));
    // The flooded client reads all the time, and counts what arrives.
    let reader = tokio::spawn(async move {
        let (mut gaps, mut last) = (0, 0);
        loop {
            let packet = flooded.receive_any().await;
            if packet.gap().is_some() {
                gaps += 1;
            } else if packet.flags & 1 == 0 {
                if packet.payload.len() < LARGE {
                    return (flooded, gaps);
                }
                assert!(packet.seq > last, "{} after {last}", packet.seq);
                last = packet.seq;
            }
        }
    });
    let (mut largest, mut heartbeats, mut slowest) = (before, 0, Duration::ZERO);
    while !backend.is_finished() {
        let asked = Instant::now();
        other.assert_alive().await;
        (heartbeats, slowest) = (heartbeats + 1, slowest.max(asked.elapsed()));
        largest = largest.max(gateway.resident_bytes());
        time::sleep(Duration::from_millis(20)).await;
    }
    let (sent, passed_on) = backend.await.unwrap();
    let rate = (sent * LARGE) as f64 / 1e6 / began.elapsed().as_secs_f64();
    let grown = largest - before.min(largest);
    let figures = format!(
        "{rate:.0} MB/s published, {passed_on} of {sent} messages passed on, {} MiB more memory, {heartbeats} heartbeats, the \
         slowest in {slowest:?}",
        grown >> 20
    );
    assert!(grown < MAX_GROWTH, "{figures}");
    assert!(heartbeats > 10, "{figures}");

    // Afterwards everything is well. The message is published until it arrives, because Redis may have cut the connection.
    eventually("the gateway is ready", || async { (gateway.get("/readyz").await.0 == 200).then_some(()) }).await;
    redis.subscribers_are(TOPIC, 1).await;
    assert_eq!(redis.publish(TOPIC, &broadcast(7, 2)).await, 1);
    let (mut flooded, gaps) = time::timeout(gateway_tests::PATIENCE, reader).await.unwrap().unwrap();
    let received = gateway.metric(HERE).await as usize - 1;
    let told = gateway.metric(GAPS).await;
    assert!(
        received <= passed_on && (received == passed_on && passed_on == sent || told > 0.0),
        "{received}: {figures}"
    );
    other.assert_alive().await;
    flooded.assert_alive().await;
    assert_eq!((f64::from(gaps), other.gaps.len() as f64), (told, told), "{figures}");
    assert_eq!(redis.publish("broadcast:user:8", &broadcast(8, 1)).await, 1);
    assert_pushed(&mut other, 1, &broadcast(8, 1)).await;
    println!("{figures}; {received} heard, {told} gaps");
}
