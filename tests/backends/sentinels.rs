//! Tests of a gateway whose Redis is the master that Sentinels name.

use crate::{BROADCAST, CHAT, REQUESTS, broadcast, connected};
use gateway_tests::{Client, Gateway, MASTER, Redis, Sentinels, Setup, chat_request, eventually};
use std::time::Duration;
use tokio::time::timeout;

fn setup(sentinels: &Sentinels, master: &str, keys: &str) -> Setup {
    let yaml = format!("games: [{{ id: mmo }}]\n{}", sentinels.yaml(master, keys));
    Setup { yaml, ..Setup::default() }
}

/// Waits until the gateway is connected to this server in both directions, and shows that messages pass it both ways.
async fn uses(gateway: &Gateway, client: &mut Client, server: &Redis, number: i64) {
    server.subscribers_are(BROADCAST, 1).await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    let mut requests = server.subscribe(REQUESTS).await;
    let request = chat_request("mmo", 7, &number.to_string());
    // The publisher may still have to find out that its connection leads to another server. Then the client gets a
    // status.
    loop {
        client.send(CHAT, &request).await;
        if let Ok(received) = timeout(Duration::from_millis(500), requests.next()).await {
            assert_eq!(received, request);
            break;
        }
    }
    assert_eq!(server.publish(BROADCAST, &broadcast(7, number)).await, 1);
    loop {
        let packet = client.receive().await;
        if packet.flags & 1 == 0 {
            assert_eq!(packet.payload, broadcast(7, number));
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_follows_a_failover() {
    let redis = Sentinels::start().await;
    let gateway = connected(setup(&redis, MASTER, "")).await;
    let mut client = gateway.client().await;
    uses(&gateway, &mut client, &redis.servers[0], 1).await;
    redis.fail_over().await;
    uses(&gateway, &mut client, &redis.servers[1], 2).await;
    redis.servers[0].subscribers_are(BROADCAST, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_uses_the_replica_after_a_crash_of_the_master() {
    let mut redis = Sentinels::start().await;
    let gateway = connected(setup(&redis, MASTER, "")).await;
    let mut client = gateway.client().await;
    uses(&gateway, &mut client, &redis.servers[0], 1).await;
    redis.servers[0].kill().await;
    uses(&gateway, &mut client, &redis.servers[1], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_hangs_is_left_as_soon_as_a_sentinel_tells_the_new_one() {
    let redis = Sentinels::start().await;
    // With this timeout, only the message of a Sentinel can end the connections.
    let gateway = connected(setup(&redis, MASTER, ", timeout_ms: 60000")).await;
    let mut client = gateway.client().await;
    uses(&gateway, &mut client, &redis.servers[0], 1).await;
    redis.servers[0].signal("STOP").await;
    uses(&gateway, &mut client, &redis.servers[1], 2).await;
    gateway.logged("the master is now 127.0.0.1:").await;
    redis.servers[0].signal("CONT").await;
}

#[tokio::test]
async fn a_master_that_no_sentinel_knows_is_a_reason_not_to_be_ready() {
    let redis = Sentinels::start().await;
    let gateway = Gateway::start(setup(&redis, "unknown", "")).await;
    let reason = "redis unknown of the Sentinels redis://127.0.0.1:";
    eventually("the reason in /readyz", || async {
        let (status, report) = gateway.get("/readyz").await;
        let why = "the Sentinels name no master that can be used";
        (status == 503 && report.contains(reason) && report.contains(why)).then_some(())
    })
    .await;
}
