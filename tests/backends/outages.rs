//! Tests of outages of Redis: Redis is killed, is frozen, or starts after the gateway.

use super::{
    BROADCAST, CHAT, REQUESTS, assert_pushed, broadcast,
    grace::{GRACE, in_grace, is_back_in_grace},
    stage,
};
use chat_proto::chat::ChatRequest;
use gateway_tests::{Client, Gateway, Redis, Setup, Subscription, chat_request, dist, eventually, put};
use prost::Message;
use serde_json::Value;
use std::{collections::BTreeSet, fs, time::Duration};
use tokio::time::{self, Instant};

const CONNECTED: &str = "gateway_bus_connected";
const UNAVAILABLE: &str = "gateway_routing_errors_total{reason=\"unavailable\"}";

/// A part of the refusal's text. The refusal contains it if the gateway does not know whether Redis accepted the
/// message.
const PERHAPS: &str = "may or may not";

fn request(number: usize) -> Vec<u8> {
    chat_request("mmo", 7, &number.to_string())
}

fn number(request: &[u8]) -> usize {
    let request = ChatRequest::decode(request).expect("a ChatRequest");
    request.content.parse().expect("the number of the request")
}

/// Returns a client with a session that is bound to the user. Redis has already accepted the request that bound the
/// session, so no message is in flight.
async fn bound(redis: &Redis, gateway: &Gateway, user_id: i32) -> Client {
    // The gateway refuses a request that no backend hears. This subscriber stands in for a backend.
    let _backend = redis.subscribe(REQUESTS).await;
    let client = gateway.client_of(user_id).await;
    gateway.metric_is("gateway_bus_published_total", 1.0).await;
    client
}

/// Starts Redis again and returns a subscription to the requests. The gateways are stopped until the subscription is
/// confirmed, so the subscription receives every request.
async fn back(redis: &mut Redis, gateways: &[&Gateway]) -> Subscription {
    for gateway in gateways {
        gateway.signal("STOP").await;
    }
    redis.restart().await;
    let heard = redis.subscribe(REQUESTS).await;
    for gateway in gateways {
        gateway.signal("CONT").await;
    }
    heard
}

/// Asserts that messages pass in both directions.
async fn carries_both_ways(redis: &Redis, client: &mut Client, deliveries: u32) {
    let mut heard = redis.subscribe(REQUESTS).await;
    client.send(CHAT, &request(0)).await;
    assert_eq!(heard.next().await, request(0));
    assert_eq!(redis.publish(BROADCAST, &broadcast(7, 1)).await, 1);
    assert_pushed(client, deliveries, &broadcast(7, 1)).await;
    client.assert_alive().await;
}

#[tokio::test]
async fn while_redis_is_unreachable_sessions_stay_and_readiness_says_why() {
    let (mut redis, gateway) = stage().await;
    let (mut client, mut idle) = (bound(&redis, &gateway, 7).await, gateway.client().await);
    carries_both_ways(&redis, &mut client, 1).await;
    for round in 2..=3 {
        redis.kill().await;
        gateway.metric_is(CONNECTED, 0.0).await;
        let (status, report) = gateway.get("/readyz").await;
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!((status, &report["ready"]), (503, &Value::Bool(false)), "{report}");
        let reasons = report["reasons"].as_array().unwrap();
        let named = format!("redis redis://127.0.0.1:{}", redis.port);
        assert!(reasons.len() == 1 && reasons[0].as_str().unwrap().contains(&named), "{report}");
        assert_eq!(gateway.get("/healthz").await.0, 200);
        client.assert_alive().await;
        idle.assert_alive().await;

        redis.restart().await;
        gateway.metric_is(CONNECTED, 1.0).await;
        redis.subscribers_are(BROADCAST, 1).await;
        assert_eq!(gateway.get("/readyz").await.0, 200);
        carries_both_ways(&redis, &mut client, round).await;
        idle.assert_alive().await;
    }
    assert_eq!(gateway.metric("gateway_sessions").await, 2.0);
    assert_eq!(gateway.metric("gateway_connections_total").await, 2.0);
}

#[tokio::test]
async fn requests_during_a_short_outage_are_published_in_order_after_the_outage() {
    in_grace(requests_wait_for_the_end_of_an_outage).await;
}

async fn requests_wait_for_the_end_of_an_outage() -> bool {
    let (mut redis, gateway) = stage().await;
    let mut client = bound(&redis, &gateway, 7).await;
    let began = Instant::now();
    redis.kill().await;
    gateway.metric_is(CONNECTED, 0.0).await;
    let mut replies = Vec::new();
    for number in 0..100 {
        client.send(CHAT, &request(number)).await;
        if number % 10 == 9 {
            replies.push((client.send(3, b"alive?").await, client.receive_any().await));
        }
    }
    let mut heard = back(&mut redis, &[&gateway]).await;
    if !is_back_in_grace(&gateway, began).await {
        return false;
    }
    for (seq, reply) in replies {
        // The next packet was the heartbeat's reply, so no request had been answered with status 5.
        assert_eq!((reply.seq, reply.route, reply.status), (seq, 3, 0), "{reply:?}");
    }
    for number in 0..100 {
        assert_eq!(heard.next().await, request(number));
    }
    client.send(CHAT, &request(100)).await;
    assert_eq!(heard.next().await, request(100), "a request was published twice");
    client.assert_alive().await;
    assert_eq!(gateway.metric(UNAVAILABLE).await, 0.0);
    true
}

#[tokio::test]
async fn an_outage_that_is_a_second_shorter_than_the_grace_period_refuses_nothing() {
    // On a busy machine, Redis may start too late. Then the outage was longer than planned, and the attempt proves
    // nothing.
    for _ in 0..5 {
        if an_outage_ends_a_second_before_the_grace_does().await {
            return;
        }
    }
    panic!("in five attempts, redis never started within half a second");
}

/// Asserts that an outage of at most `IN_TIME` refuses no request. Returns false if the outage was longer than planned.
async fn an_outage_ends_a_second_before_the_grace_does() -> bool {
    const IN_TIME: Duration = GRACE.saturating_sub(Duration::from_secs(1));
    let mut redis = Redis::start().await;
    // The test uses several gateways, since each gateway tries to reconnect at different times.
    let mut gateways = Vec::new();
    for _ in 0..4 {
        gateways.push(super::connected(Setup::redis(&redis)).await);
    }
    let mut clients = Vec::new();
    for (user, gateway) in (1..).zip(&gateways) {
        clients.push((user, bound(&redis, gateway, user).await));
    }
    let began = Instant::now();
    redis.kill().await;
    for (gateway, (user, client)) in gateways.iter().zip(&mut clients) {
        gateway.metric_is(CONNECTED, 0.0).await;
        client.send(CHAT, &chat_request("mmo", *user, "wait")).await;
    }
    // This sleep is the outage itself, so there is no condition to wait for.
    time::sleep_until(began + IN_TIME - Duration::from_millis(500)).await;
    let mut heard = back(&mut redis, &gateways.iter().collect::<Vec<_>>()).await;
    if began.elapsed() > IN_TIME {
        return false;
    }
    for gateway in &gateways {
        gateway.metric_is(CONNECTED, 1.0).await;
    }
    if began.elapsed() > GRACE {
        return false;
    }
    let mut users = BTreeSet::new();
    for (_, client) in &mut clients {
        client.assert_alive().await;
    }
    for _ in &clients {
        users.insert(ChatRequest::decode(&heard.next().await[..]).unwrap().base.unwrap().user_id);
    }
    assert_eq!(users, BTreeSet::from([1, 2, 3, 4]));
    true
}

#[tokio::test]
async fn requests_during_a_long_outage_get_status_5_and_the_session_stays() {
    let (mut redis, gateway) = stage().await;
    let mut client = bound(&redis, &gateway, 7).await;
    redis.kill().await;
    gateway.metric_is(CONNECTED, 0.0).await;
    let seqs = [client.send(CHAT, &request(1)).await, client.send(CHAT, &request(2)).await];
    for seq in seqs {
        let refused = client.receive().await;
        assert_eq!((refused.seq, refused.route, refused.flags, refused.status), (seq, CHAT, 1, 5), "{refused:?}");
        assert!(refused.text().contains("bus"), "{refused:?}");
    }
    // After the grace period, requests are refused at once. Packets that need no bus are still served.
    for number in 3..=100 {
        let refused = client.request(CHAT, &request(number)).await;
        assert_eq!(refused.status, 5, "{refused:?}");
        client.assert_alive().await;
    }
    assert_eq!(gateway.metric(UNAVAILABLE).await, 100.0);
    assert_eq!(gateway.metric("gateway_messages_dropped_total{reason=\"bus_unavailable\"}").await, 100.0);
    gateway.logged("publish refused").await;
    redis.restart().await;
    gateway.metric_is(CONNECTED, 1.0).await;
    carries_both_ways(&redis, &mut client, 1).await;
}

#[tokio::test]
async fn each_of_many_requests_during_a_long_outage_is_answered_or_counted_as_dropped() {
    const BURST: usize = 3000; // Nearly three times the capacity of a send queue.
    let (mut redis, gateway) = stage().await;
    let mut client = bound(&redis, &gateway, 7).await;
    redis.kill().await;
    gateway.metric_is(CONNECTED, 0.0).await;
    for number in 0..BURST {
        client.send(CHAT, &request(number)).await;
    }
    gateway.metric_is(UNAVAILABLE, BURST as f64).await;
    let last = client.send(3, b"after all of them").await;
    let (mut answered, mut seq) = (0.0, 0);
    loop {
        let reply = client.receive().await;
        assert!(reply.seq > seq, "an answer is out of order: {reply:?} after {seq}");
        if reply.seq == last {
            break;
        }
        assert_eq!((reply.route, reply.flags, reply.status), (CHAT, 1, 5), "{reply:?}");
        seq = reply.seq;
        answered += 1.0;
    }
    let dropped = gateway.metric("gateway_messages_dropped_total{reason=\"send_queue_full\"}").await;
    assert_eq!(answered + dropped, BURST as f64, "{answered} answered and {dropped} counted as dropped");
    if dropped > 0.0 {
        let line = gateway.logged("send queue full").await;
        assert_eq!(line["fields"]["session"], client.welcome.session_id.as_str(), "{line}");
    }
}

#[tokio::test]
async fn requests_to_a_redis_that_is_frozen_for_a_moment_are_all_published_once_and_in_order() {
    let redis = Redis::start().await;
    // The timeout is longer than Redis is frozen, even on a busy machine.
    let gateway = super::connected(Setup::redis_with(&redis, "timeout_ms: 60000")).await;
    let mut heard = redis.subscribe(REQUESTS).await;
    let mut client = gateway.client().await;
    for round in 0..5 {
        redis.signal("STOP").await;
        for number in 0..200 {
            client.send(CHAT, &request(round * 200 + number)).await;
        }
        client.assert_alive().await;
        redis.signal("CONT").await;
        for number in 0..200 {
            assert_eq!(heard.next().await, request(round * 200 + number));
        }
    }
    client.send(CHAT, &request(1000)).await;
    assert_eq!(heard.next().await, request(1000), "a request was published twice");
    client.assert_alive().await;
    gateway.metric_is("gateway_bus_published_total", 1001.0).await;
}

#[tokio::test]
async fn requests_to_a_redis_that_is_frozen_for_long_are_published_or_refused_and_none_is_lost_or_duplicated() {
    const BURST: usize = 500;
    let redis = Redis::start().await;
    // The gateway has the default timeout, so that it soon gives up the connection.
    let gateway = super::connected(Setup::redis_with(&redis, "")).await;
    let mut heard = redis.subscribe(REQUESTS).await;
    let mut client = gateway.client().await;
    redis.signal("STOP").await;
    let mut seqs = Vec::new();
    for number in 0..BURST {
        seqs.push(client.send(CHAT, &request(number)).await);
    }
    // A refusal shows that the gateway has given up the connection.
    let mut refused = vec![client.receive().await];
    gateway.metric_is(CONNECTED, 0.0).await;
    redis.signal("CONT").await;
    gateway.metric_is(CONNECTED, 1.0).await;
    // The gateway publishes all queued requests before this last request.
    client.send(CHAT, &request(BURST)).await;
    let mut published = Vec::new();
    while published.last() != Some(&BURST) {
        published.push(number(&heard.next().await));
    }
    let last = client.send(3, b"after all of them").await;
    while refused.last().is_some_and(|reply| reply.seq != last) {
        refused.push(client.receive().await);
    }
    refused.pop();

    let once: BTreeSet<_> = published.iter().copied().collect();
    assert_eq!(once.len(), published.len(), "a request was published twice: {published:?}");
    for reply in &refused {
        assert_eq!((reply.route, reply.flags, reply.status), (CHAT, 1, 5), "{reply:?}");
        let number = seqs.iter().position(|seq| *seq == reply.seq).expect("a reply to one of the requests");
        assert!(
            reply.text().contains(PERHAPS) || !once.contains(&number),
            "a request was refused and published: {reply:?}"
        );
    }
    let answered: BTreeSet<_> = refused.iter().map(|reply| reply.seq).collect();
    assert_eq!(answered.len(), refused.len(), "a request was answered twice: {refused:?}");
    for (number, seq) in seqs.iter().enumerate() {
        assert!(
            once.contains(&number) || answered.contains(seq),
            "request {number} was neither published nor answered"
        );
    }
    // The requests that are not refused keep their order.
    let taken: Vec<_> = published.into_iter().filter(|n| seqs.get(*n).is_none_or(|s| !answered.contains(s))).collect();
    assert!(taken.is_sorted(), "{taken:?}");
    assert_eq!(gateway.metric(UNAVAILABLE).await, refused.len() as f64);
}

#[tokio::test]
async fn a_gateway_that_starts_before_redis_serves_heartbeats_at_once_and_chat_once_redis_is_reachable() {
    in_grace(a_gateway_starts_before_redis).await;
}

async fn a_gateway_starts_before_redis() -> bool {
    let mut redis = Redis::start().await;
    redis.kill().await;
    let began = Instant::now();
    let gateway = Gateway::start(Setup::redis(&redis)).await;
    let mut client = gateway.client().await;
    client.assert_alive().await;
    assert_eq!(gateway.metric(CONNECTED).await, 0.0);
    assert_eq!(gateway.get("/readyz").await.0, 503);
    gateway.logged("bus not connected").await;
    client.send(CHAT, &request(1)).await;
    let (seq, reply) = (client.send(3, b"alive?").await, client.receive_any().await);
    let mut heard = back(&mut redis, &[&gateway]).await;
    if !is_back_in_grace(&gateway, began).await {
        return false;
    }
    assert_eq!((reply.seq, reply.route, reply.status), (seq, 3, 0), "{reply:?}");
    assert_eq!(heard.next().await, request(1));
    eventually("readiness", || async { (gateway.get("/readyz").await.0 == 200).then_some(()) }).await;
    drop(heard);
    carries_both_ways(&redis, &mut client, 1).await;
    true
}

#[tokio::test]
async fn a_waiting_request_is_refused_and_not_published_if_its_plugin_is_removed() {
    in_grace(a_plugin_is_removed_while_its_request_waits).await;
}

async fn a_plugin_is_removed_while_its_request_waits() -> bool {
    let (mut redis, gateway) = stage().await;
    let mut client = bound(&redis, &gateway, 7).await;
    let began = Instant::now();
    redis.kill().await;
    gateway.metric_is(CONNECTED, 0.0).await;
    let seq = client.send(CHAT, &request(0)).await;
    client.assert_last_alive().await;
    fs::remove_file(gateway.plugin("chat")).unwrap();
    gateway.metric_is("gateway_plugin_reloads_total{plugin=\"chat\",outcome=\"removed\"}", 1.0).await;
    // The metric counts the removal just before it takes effect.
    gateway.client().await.answers_until(CHAT, 3, "no plugin serves route 0x01").await;
    let mut heard = back(&mut redis, &[&gateway]).await;
    if !is_back_in_grace(&gateway, began).await {
        return false;
    }
    let refusal = client.receive().await;
    assert_eq!((refusal.seq, refusal.status), (seq, 5));
    assert!(refusal.text().contains("taken away"), "{}", refusal.text());
    put(&gateway.plugin("chat"), &fs::read(dist("chat")).unwrap());
    gateway.metric_is("gateway_plugin_reloads_total{plugin=\"chat\",outcome=\"loaded\"}", 2.0).await;
    client.send(CHAT, &request(1)).await;
    assert_eq!(heard.next().await, request(1), "the refused request was published");
    true
}

#[tokio::test]
async fn gateway_bus_queued_counts_the_requests_that_wait_for_redis() {
    const QUEUED: &str = "gateway_bus_queued";
    let (mut redis, gateway) = stage().await;
    let mut client = bound(&redis, &gateway, 7).await;
    gateway.metric_is(QUEUED, 0.0).await;
    redis.kill().await;
    gateway.metric_is(CONNECTED, 0.0).await;
    for number in 0..7 {
        client.send(CHAT, &request(number)).await;
    }
    gateway.metric_is(QUEUED, 7.0).await;
    let waiting: usize = (0..7).map(|number| REQUESTS.len() + request(number).len()).sum();
    gateway.metric_is("gateway_bus_queued_bytes", waiting as f64).await;
    let mut heard = back(&mut redis, &[&gateway]).await;
    for number in 0..7 {
        assert_eq!(heard.next().await, request(number));
    }
    gateway.metric_is(QUEUED, 0.0).await;
    client.assert_alive().await;
}
