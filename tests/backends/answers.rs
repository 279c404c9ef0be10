//! Tests that no answer is lost silently. The gateway publishes nothing while it could not receive the backend's
//! answer. A request that no backend hears is refused.

use super::{
    BROADCAST, CHAT, REQUESTS, assert_pushed, connected,
    grace::{in_grace, is_back_in_grace},
    response,
};
use chat_proto::chat::ChatRequest;
use gateway_tests::{Client, DEMO_CHAT, Gateway, Packet, Proxy, Redis, Setup, Subscription, chat_request, dist, put};
use prost::Message;
use std::{fs, time::Duration};
use tokio::time::{self, Instant};

/// How many requests are sent while answers cannot arrive.
const REQUESTS_MADE: u32 = 100;

/// How long the tests delay the subscription. A gateway that publishes too early does so within this time.
const HELD: Duration = Duration::from_millis(500);

const UNAVAILABLE: &str = "gateway_routing_errors_total{reason=\"unavailable\"}";
const UNHEARD: &str = "gateway_bus_unheard_total";

fn request(number: u32) -> Vec<u8> {
    chat_request("mmo", 7, &number.to_string())
}

fn answer(number: u32) -> Vec<u8> {
    response(7, "", number.into())
}

/// Starts a backend that answers each request.
async fn backend(redis: &Redis, mut heard: Subscription) {
    let mut connection = redis.connection().await;
    tokio::spawn(async move {
        loop {
            let request = ChatRequest::decode(&heard.next().await[..]).unwrap();
            let number = request.content.parse().unwrap();
            redis::cmd("PUBLISH").arg(BROADCAST).arg(answer(number)).exec_async(&mut connection).await.unwrap();
        }
    });
}

/// Starts a gateway behind the proxy, and a client of user 7. The request that bound the session has been published.
async fn stage(proxy: &Proxy) -> (Gateway, Client) {
    let gateway = connected(proxy.setup()).await;
    let client = gateway.client_of(7).await;
    gateway.metric_is("gateway_bus_published_total", 1.0).await;
    (gateway, client)
}

async fn makes_requests(client: &mut Client) {
    for number in 1..=REQUESTS_MADE {
        client.send(CHAT, &request(number)).await;
    }
}

/// Asserts that the packet is the reply to the heartbeat with this number.
fn assert_beat(seq: u32, reply: &Packet) {
    assert_eq!((reply.seq, reply.route, reply.status), (seq, 3, 0), "{reply:?}");
}

/// Asserts that each request was published once and in order, and that its answer arrives.
async fn all_are_answered(gateway: &Gateway, client: &mut Client) {
    for number in 1..=REQUESTS_MADE {
        assert_pushed(client, number, &answer(number)).await;
    }
    client.assert_alive().await;
    assert_eq!(gateway.metric(UNAVAILABLE).await, f64::from(client.unheard));
}

#[tokio::test]
async fn after_a_restart_of_redis_nothing_is_published_before_the_subscriptions_are_confirmed() {
    in_grace(redis_restarts_and_confirms_late).await;
}

async fn redis_restarts_and_confirms_late() -> bool {
    let mut redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let (gateway, mut client) = stage(&proxy).await;
    let began = Instant::now();
    redis.kill().await;
    gateway.metric_is("gateway_bus_connected", 0.0).await;
    makes_requests(&mut client).await;
    let (seq, reply) = (client.send(3, b"alive?").await, client.receive().await);

    proxy.hold_subscriptions();
    gateway.signal("STOP").await;
    redis.restart().await;
    backend(&redis, redis.subscribe(REQUESTS).await).await;
    gateway.signal("CONT").await;
    proxy.holds_a_command().await;
    time::sleep(HELD).await;
    assert_eq!(gateway.metric("gateway_bus_published_total").await, 1.0);
    proxy.release();
    if !is_back_in_grace(&gateway, began).await {
        return false;
    }
    assert_beat(seq, &reply);
    all_are_answered(&gateway, &mut client).await;
    true
}

#[tokio::test]
async fn while_the_subscribing_connection_alone_is_broken_nothing_is_published() {
    in_grace(the_subscribing_connection_breaks).await;
}

async fn the_subscribing_connection_breaks() -> bool {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let (gateway, mut client) = stage(&proxy).await;
    backend(&redis, redis.subscribe(REQUESTS).await).await;
    proxy.hold_subscriptions();
    let began = Instant::now();
    proxy.cut_subscribers();
    proxy.holds_a_command().await;
    gateway.metric_is("gateway_bus_connected", 0.0).await;
    makes_requests(&mut client).await;
    time::sleep(HELD).await;
    assert_eq!(gateway.metric("gateway_bus_published_total").await, 1.0);
    proxy.release();
    if !is_back_in_grace(&gateway, began).await {
        return false;
    }
    all_are_answered(&gateway, &mut client).await;
    true
}

#[tokio::test]
async fn publishes_of_a_new_plugin_wait_until_its_topics_are_subscribed() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let gateway = connected(Setup { plugins: vec!["system"], ..proxy.setup() }).await;
    backend(&redis, redis.subscribe(REQUESTS).await).await;
    let mut client = gateway.client().await;
    proxy.hold_subscriptions();
    put(&gateway.plugin("chat"), &fs::read(dist("chat")).unwrap());
    proxy.holds_a_command().await;
    gateway.metric_is("gateway_plugin_generation{plugin=\"chat\"}", 1.0).await;
    makes_requests(&mut client).await;
    client.assert_alive().await;
    time::sleep(HELD).await;
    assert_eq!(gateway.metric("gateway_bus_published_total").await, 0.0);
    proxy.release();
    all_are_answered(&gateway, &mut client).await;
}

#[tokio::test]
async fn the_first_requests_of_a_session_wait_for_the_channel_of_its_user_and_nobody_else_waits() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let (gateway, mut client) = stage(&proxy).await;
    redis.subscribers_are("broadcast:user:7", 1).await;
    let mut heard = redis.subscribe(REQUESTS).await;
    proxy.hold_subscriptions();
    let mut second = gateway.client().await;
    for number in [1, 2] {
        second.send(CHAT, &chat_request("mmo", 8, &number.to_string())).await;
    }
    second.assert_alive().await;
    proxy.holds_a_command().await;
    for number in 1..=REQUESTS_MADE {
        client.send(CHAT, &request(number)).await;
        assert_eq!(heard.next().await, request(number), "a publish of another session waited");
    }
    time::sleep(HELD).await;
    assert_eq!(gateway.metric("gateway_bus_published_total").await, f64::from(1 + REQUESTS_MADE));
    proxy.release();
    for number in [1, 2] {
        assert_eq!(heard.next().await, chat_request("mmo", 8, &number.to_string()));
        let answer = response(8, "", number.into());
        assert_eq!(redis.publish("broadcast:user:8", &answer).await, 1, "the gateway does not hear the channel yet");
        assert_pushed(&mut second, number, &answer).await;
    }
}

/// Sends a request that no backend hears, and asserts that only this request is refused.
async fn is_told_that_nobody_listens(gateway: &Gateway, client: &mut Client) {
    let seq = client.send(CHAT, &request(1)).await;
    let reply = client.receive_any().await;
    assert_eq!((reply.seq, reply.route, reply.flags, reply.status), (seq, CHAT, 1, 5), "{reply:?}");
    assert_eq!(reply.text(), "no backend listens on game:request:mmo");
    client.assert_alive().await;
    gateway.metric_is(UNHEARD, 1.0).await;
    gateway.metric_is(UNAVAILABLE, 1.0).await;
    gateway.metric_is("gateway_bus_published_total", 1.0).await;
    assert_eq!(gateway.metric("gateway_messages_dropped_total{reason=\"bus_unavailable\"}").await, 0.0);
    let line = gateway.logged("publish refused").await;
    assert_eq!(line["fields"]["topic"], REQUESTS, "{line}");
}

#[tokio::test]
async fn a_request_that_no_backend_on_redis_hears_gets_status_5_and_the_topic() {
    let redis = Redis::start().await;
    let gateway = connected(Setup::redis(&redis)).await;
    let mut client = gateway.client().await;
    is_told_that_nobody_listens(&gateway, &mut client).await;
    backend(&redis, redis.subscribe(REQUESTS).await).await;
    client.send(CHAT, &request(2)).await;
    assert_pushed(&mut client, 1, &answer(2)).await;
    assert_eq!(gateway.metric(UNHEARD).await, 1.0);
}

#[tokio::test]
async fn a_request_that_no_plugin_on_the_embedded_bus_hears_gets_status_5_and_the_topic() {
    let gateway = connected(Setup::default()).await;
    let mut client = gateway.client().await;
    is_told_that_nobody_listens(&gateway, &mut client).await;
    put(&gateway.plugin(DEMO_CHAT), &fs::read(dist(DEMO_CHAT)).unwrap());
    gateway.metric_is(&format!("gateway_plugin_generation{{plugin=\"{DEMO_CHAT}\"}}"), 1.0).await;
    client.send(CHAT, &request(2)).await;
    assert_eq!(client.receive_any().await.flags, 0, "the answer is a push");
    assert_eq!(gateway.metric(UNHEARD).await, 1.0);
}
