//! Tests of a Redis that is frozen for longer than the grace period, is then killed, and comes back empty.

use super::{BROADCAST, CHAT, REQUESTS, assert_pushed, broadcast, connected, streams};
use gateway_tests::{Client, Cluster, Gateway, Redis, Setup, chat_request, eventually};

const GAPS: &str = "gateway_bus_gaps_total";
const CONNECTED: &str = "gateway_bus_connected";

/// The answers to a request that was under way when Redis froze, or waited behind a probe that was.
const REFUSALS: [&str; 2] =
    ["the connection to the bus broke: the message may or may not have been taken", "the bus is not connected"];

/// Waits for the refusal of a request, and returns its text.
async fn refusal(client: &mut Client, seq: u32) -> String {
    loop {
        let packet = client.receive_any().await;
        if (packet.seq, packet.flags) == (seq, 1) {
            assert_eq!(packet.status, 5, "{packet:?}");
            return packet.text().to_owned();
        }
    }
}

async fn is_not_ready(gateway: &Gateway, port: u16) {
    let since = format!("nothing has arrived from 127.0.0.1:{port} since ");
    eventually("/readyz 503 with the silence", || async {
        let (status, report) = gateway.get("/readyz").await;
        (status == 503 && report.contains(&since)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_redis_that_was_frozen_and_comes_back_empty_are_used_again() {
    let mut redis = Redis::start().await;
    let gateway = connected(Setup::redis_with(&redis, streams::STREAMS)).await;
    let mut client = gateway.client_of(7).await;
    streams::add(&redis, &broadcast(7, 1)).await;
    assert_pushed(&mut client, 1, &broadcast(7, 1)).await;
    redis.signal("STOP").await;
    let seq = client.send(CHAT, &streams::request(1)).await;
    is_not_ready(&gateway, redis.port).await;
    let text = refusal(&mut client, seq).await;
    assert!(REFUSALS.contains(&text.as_str()), "{text}");
    client.assert_alive().await;
    redis.kill().await;
    redis.restart().await;
    gateway.metric_is(CONNECTED, 1.0).await;
    // What was refused is not written later.
    client.send(CHAT, &streams::request(2)).await;
    eventually("the next request", || async { (!streams::requests(&redis).await.0.is_empty()).then_some(()) }).await;
    assert_eq!(streams::requests(&redis).await, (vec![2], 0));
    streams::add(&redis, &broadcast(7, 2)).await;
    assert_pushed(&mut client, 2, &broadcast(7, 2)).await;
    client.assert_alive().await;
    // The subscription has a gap, and the stream has one as well, since its end is lost.
    assert!((1..=2).contains(&client.gaps.len()), "{:?}", client.gaps);
    assert_eq!(gateway.get("/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_of_a_cluster_that_was_frozen_and_comes_back_empty_is_used_again() {
    let mut cluster = Cluster::start(0).await;
    let yaml = format!("games: [{{ id: mmo }}]\n{}", cluster.yaml(""));
    let gateway = connected(Setup { yaml, ..Setup::default() }).await;
    let owner = Cluster::first_owner(cluster.slot(REQUESTS).await);
    // A user whose topic belongs to another master.
    let mut user = 100;
    while Cluster::first_owner(cluster.slot(&format!("broadcast:user:{user}")).await) == owner {
        user += 1;
    }
    let topic = format!("broadcast:user:{user}");
    let mut client = gateway.client_of(user).await;
    let mut seq = 0;
    carries(&cluster, &mut client, user, &topic, &mut seq).await;

    cluster.servers[owner].signal("STOP").await;
    let request = client.send(CHAT, &chat_request("mmo", user, "frozen")).await;
    is_not_ready(&gateway, cluster.servers[owner].port).await;
    let text = refusal(&mut client, request).await;
    assert!(REFUSALS.contains(&text.as_str()), "{text}");
    // The other masters go on.
    seq += 1;
    let master = Cluster::first_owner(cluster.slot(&topic).await);
    let delivery = broadcast(user, 9);
    let mut publish = redis::cmd("SPUBLISH");
    publish.arg(&topic).arg(&delivery);
    cluster.servers[master].run(&publish).await;
    assert_pushed(&mut client, seq, &delivery).await;

    cluster.servers[owner].kill().await;
    cluster.servers[owner].restart().await;
    gateway.metric_is(CONNECTED, 1.0).await;
    carries(&cluster, &mut client, user, &topic, &mut seq).await;
    assert_eq!((client.gaps.len() as f64, gateway.get("/readyz").await.0), (gateway.metric(GAPS).await, 200));
    cluster.is_heard(BROADCAST).await;
}

/// Asserts that a request reaches a backend, and that a message reaches the client.
async fn carries(cluster: &Cluster, client: &mut Client, user: i32, topic: &str, seq: &mut u32) {
    *seq += 1;
    let mut requests = cluster.subscribe(REQUESTS).await;
    let request = chat_request("mmo", user, &seq.to_string());
    client.send(CHAT, &request).await;
    while requests.next().await != request {}
    cluster.is_heard(topic).await;
    assert_eq!(cluster.publish(topic, &broadcast(user, 1)).await, Some(1));
    assert_pushed(client, *seq, &broadcast(user, 1)).await;
}
