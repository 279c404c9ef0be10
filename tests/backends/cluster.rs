//! Tests of a gateway whose Redis is a Cluster, with sharded publish and subscribe.

use super::{BROADCAST, CHAT, REQUESTS, assert_pushed, broadcast, connected};
use gateway_tests::{Client, Cluster, Gateway, Setup, chat_request, eventually};

const CONNECTED: &str = "gateway_bus_connected";
const GAPS: &str = "gateway_bus_gaps_total";

async fn stage(replicas: usize) -> (Cluster, Gateway) {
    let cluster = Cluster::start(replicas).await;
    let yaml = format!("games: [{{ id: mmo }}]\n{}", cluster.yaml(""));
    let gateway = connected(Setup { yaml, ..Setup::default() }).await;
    (cluster, gateway)
}

/// Asserts that a request reaches a backend, and that a message reaches the client.
async fn carries_both_ways(cluster: &Cluster, client: &mut Client, seq: u32) {
    let mut requests = cluster.subscribe(REQUESTS).await;
    let request = chat_request("mmo", 7, &seq.to_string());
    client.send(CHAT, &request).await;
    // The request that bound the session may come first.
    while requests.next().await != request {}
    cluster.is_heard(BROADCAST).await;
    let message = broadcast(7, seq.into());
    assert_eq!(cluster.publish(BROADCAST, &message).await, Some(1));
    assert_pushed(client, seq, &message).await;
}

/// Returns a user whose topic belongs to this master at the start.
async fn user_of(cluster: &Cluster, master: usize) -> i32 {
    let mut user = 100;
    while Cluster::first_owner(cluster.slot(&format!("broadcast:user:{user}")).await) != master {
        user += 1;
    }
    user
}

/// Waits until the client is told of a gap.
async fn is_told(client: &mut Client) {
    loop {
        let packet = client.receive_any().await;
        if packet.gap().is_some() {
            return;
        }
        assert_ne!(packet.flags & 1, 0, "a push before the gap: {packet:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_topic_is_carried_by_the_master_of_its_slot() {
    let (cluster, gateway) = stage(0).await;
    let mut client = gateway.client_of(7).await;
    carries_both_ways(&cluster, &mut client, 1).await;
    // The topics of these users belong to all three masters.
    let mut owners = [0; 3];
    for user in 100..112 {
        let mut client = gateway.client_of(user).await;
        let topic = format!("broadcast:user:{user}");
        owners[Cluster::first_owner(cluster.slot(&topic).await)] += 1;
        cluster.is_heard(&topic).await;
        let message = broadcast(user, 1);
        assert_eq!(cluster.publish(&topic, &message).await, Some(1), "{topic}");
        assert_pushed(&mut client, 1, &message).await;
    }
    assert!(owners.iter().all(|topics| *topics > 0), "{owners:?}");
    assert_eq!((gateway.metric(GAPS).await, gateway.get("/readyz").await.0), (0.0, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_is_followed_and_its_sessions_are_told() {
    let (cluster, gateway) = stage(0).await;
    let mut client = gateway.client_of(7).await;
    carries_both_ways(&cluster, &mut client, 1).await;
    let slot = cluster.slot(BROADCAST).await;
    let from = Cluster::first_owner(slot);
    cluster.migrate(slot, from, (from + 1) % 3).await;
    is_told(&mut client).await;
    carries_both_ways(&cluster, &mut client, 2).await;
    // The slot of the requests has no subscriber here, so a refused publish is what shows that it has moved.
    let slot = cluster.slot(REQUESTS).await;
    let from = Cluster::first_owner(slot);
    cluster.migrate(slot, from, (from + 1) % 3).await;
    carries_both_ways(&cluster, &mut client, 3).await;
    assert_eq!(gateway.metric(GAPS).await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_takes_over_from_a_killed_master_is_used() {
    let (mut cluster, gateway) = stage(1).await;
    let mut client = gateway.client_of(7).await;
    carries_both_ways(&cluster, &mut client, 1).await;
    // A user whose topic belongs to the first master, which is the one with a replica.
    let user = user_of(&cluster, 0).await;
    let topic = format!("broadcast:user:{user}");
    let mut other = gateway.client_of(user).await;
    cluster.is_heard(&topic).await;
    cluster.servers[0].kill().await;
    gateway.metric_is(CONNECTED, 0.0).await;
    assert_eq!(gateway.get("/readyz").await.0, 503);
    is_told(&mut other).await;
    gateway.metric_is(CONNECTED, 1.0).await;
    cluster.is_heard(&topic).await;
    let message = broadcast(user, 1);
    assert_eq!(cluster.publish(&topic, &message).await, Some(1));
    assert_pushed(&mut other, 1, &message).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_masters_that_are_left_go_on_when_one_is_lost() {
    let (mut cluster, gateway) = stage(0).await;
    // Masters of a Cluster without all slots refuse everything, unless they are told otherwise.
    for server in &cluster.servers {
        server.run(redis::cmd("CONFIG").arg("SET").arg("cluster-require-full-coverage").arg("no")).await;
    }
    let mut client = gateway.client_of(7).await;
    carries_both_ways(&cluster, &mut client, 1).await;
    let used: Vec<_> = [cluster.slot(BROADCAST).await, cluster.slot(REQUESTS).await].map(Cluster::first_owner).into();
    let unused = (0..3).find(|server| !used.contains(server)).unwrap();
    let user = user_of(&cluster, unused).await;
    cluster.servers[unused].kill().await;
    gateway.metric_is(CONNECTED, 0.0).await;
    carries_both_ways(&cluster, &mut client, 2).await;
    // The topic of this user cannot be subscribed to now. Its requests, and those of later sessions, do not wait for it.
    let mut deaf = gateway.client_of(user).await;
    let mut requests = cluster.subscribe(REQUESTS).await;
    let request = chat_request("mmo", user, "hi");
    deaf.send(CHAT, &request).await;
    while requests.next().await != request {}
    cluster.servers[unused].restart().await;
    eventually("the lost master is used again", || async { (gateway.metric(CONNECTED).await == 1.0).then_some(()) })
        .await;
    is_told(&mut client).await;
    carries_both_ways(&cluster, &mut client, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_the_gateway_has_never_reached_is_replaced_by_its_replica() {
    let mut cluster = Cluster::start(1).await;
    let replica = &cluster.servers[3];
    for (key, value) in [("cluster-replica-no-failover", "yes"), ("cluster-replica-validity-factor", "0")] {
        replica.run(redis::cmd("CONFIG").arg("SET").arg(key).arg(value)).await;
    }
    cluster.servers[0].kill().await;
    let gateway = Gateway::start(Setup { yaml: cluster.yaml(""), ..Setup::default() }).await;
    let lost = format!("127.0.0.1:{}", cluster.servers[0].port);
    eventually("the lost master in /readyz", || async {
        let (status, report) = gateway.get("/readyz").await;
        (status == 503 && report.contains(&lost)).then_some(())
    })
    .await;
    cluster.servers[3].run(redis::cmd("CONFIG").arg("SET").arg("cluster-replica-no-failover").arg("no")).await;
    gateway.metric_is(CONNECTED, 1.0).await;
    let user = user_of(&cluster, 0).await;
    let topic = format!("broadcast:user:{user}");
    let mut client = gateway.client_of(user).await;
    cluster.is_heard(&topic).await;
    let message = broadcast(user, 1);
    assert_eq!(cluster.publish(&topic, &message).await, Some(1));
    assert_pushed(&mut client, 1, &message).await;
}
