//! Tests of gaps: after a break of the subscription, clients learn that messages may have been lost.

use super::{BROADCAST, assert_pushed, broadcast, connected, stage};
use gateway_tests::{Bound, Client, Connections, Gateway, Proxy, Redis, eventually};

const GAPS: &str = "gateway_bus_gaps_total";
const BLIND: &str = "gateway_bus_blind_seconds_total";

/// Waits for the push about a gap, and asserts that no other push comes before it. Returns its length in milliseconds.
async fn told(client: &mut Client) -> i64 {
    loop {
        let packet = client.receive_any().await;
        if let Some(blind_ms) = packet.gap() {
            return blind_ms;
        }
        // Binding the session caused a request that no backend hears.
        assert_eq!(packet.status, 5, "{packet:?}");
    }
}

/// Waits until the gateway has told this number of gaps, and asserts that all clients were told the last one and get
/// their next push with the number `seq`. Returns the length of the gap in milliseconds.
async fn all_are_told(gateway: &Gateway, redis: &Redis, clients: &mut [Client], seq: u32) -> i64 {
    let before = gateway.metric(BLIND).await;
    gateway.metric_is(GAPS, f64::from(seq)).await;
    let blind_ms = told(&mut clients[0]).await;
    for client in &mut clients[1..] {
        assert_eq!(told(client).await, blind_ms);
    }
    let counted_ms = (gateway.metric(BLIND).await - before) * 1000.0;
    assert!((counted_ms - blind_ms as f64).abs() < 1.0, "{counted_ms} ms counted, {blind_ms} ms told");
    let line = gateway.logged_after(0, &format!("\"blind_ms\":{blind_ms}")).await;
    assert_eq!((&line["level"], &line["fields"]["sessions"]), (&"WARN".into(), &clients.len().into()), "{line}");
    redis.publish(BROADCAST, &broadcast(7, seq.into())).await;
    for client in clients {
        assert_pushed(client, seq, &broadcast(7, seq.into())).await;
    }
    blind_ms
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_was_dead_for_a_while_is_a_gap_of_that_length() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let gateway = connected(proxy.setup_with_defaults()).await;
    let mut clients = [gateway.client_of(7).await, gateway.client_of(7).await, gateway.client_of(7).await];
    redis.subscribers_are("broadcast:user:7", 1).await;
    for client in &mut clients {
        client.assert_alive().await;
    }
    proxy.drop_silently(Connections::Subscribing, Bound::ToGateway);
    let lost = redis.publish(BROADCAST, &broadcast(7, 9)).await;
    assert_eq!(lost, 1, "Redis does not know that the subscription is dead");
    let blind_ms = all_are_told(&gateway, &redis, &mut clients, 1).await;
    // The probe was passed on, and then Redis had the default timeout of 2 s.
    assert!((2000..60_000).contains(&blind_ms), "{blind_ms} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_break_of_the_subscription_is_a_gap_for_the_sessions_that_live_then() {
    let (redis, gateway) = stage().await;
    let mut clients = vec![gateway.client_of(7).await];
    let mut kill = redis::cmd("CLIENT");
    kill.arg("KILL").arg("TYPE").arg("pubsub");
    for round in 1..=3 {
        redis.subscribers_are("broadcast:user:7", 1).await;
        redis.run(&kill).await;
        let blind_ms = all_are_told(&gateway, &redis, &mut clients, round).await;
        assert!((0..60_000).contains(&blind_ms), "{blind_ms} ms");
    }
    // A session that begins later is not told.
    let mut later = gateway.client_of(8).await;
    later.assert_alive().await;
    assert_eq!(later.gaps, [0; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_break_of_the_publishing_connection_alone_is_no_gap() {
    let (redis, gateway) = stage().await;
    let mut client = gateway.client_of(7).await;
    redis.subscribers_are("broadcast:user:7", 1).await;
    let before = gateway.log_lines().len();
    redis.run(redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal")).await;
    gateway.logged_after(before, "bus not connected").await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    redis.publish(BROADCAST, &broadcast(7, 1)).await;
    assert_pushed(&mut client, 1, &broadcast(7, 1)).await;
    assert_eq!((client.gaps.len(), gateway.metric(GAPS).await), (0, 0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_connection_is_no_gap_however_late_it_is() {
    let mut redis = Redis::start().await;
    redis.kill().await;
    let gateway = Gateway::start(gateway_tests::Setup::redis(&redis)).await;
    let mut client = gateway.client().await;
    gateway.logged("bus not connected").await;
    redis.restart().await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    eventually("the topics", || async { (redis.publish(BROADCAST, b"").await == 1).then_some(()) }).await;
    client.assert_alive().await;
    assert_eq!((client.gaps.len(), gateway.metric(GAPS).await, gateway.metric(BLIND).await), (0, 0.0, 0.0));
}
