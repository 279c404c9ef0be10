//! Tests of streams in a Redis Cluster: nothing that was accepted is lost, and nothing is delivered twice, when a slot
//! moves, when a replica takes over, and when a connection breaks.

use super::{
    BROADCAST, CHAT, REQUESTS, assert_pushed, broadcast, connected,
    failovers::{ALL_ANSWERS, Address, load, replication_says, whole_master},
    streams::{GAPS, LAG, LOST, READ, STREAMS, add, reader, request, requests},
};
use gateway_tests::{Cluster, Gateway, Setup, eventually};
use std::time::Duration;
use tokio::time::sleep;

const CONNECTED: &str = "gateway_bus_connected";

/// The master that has a replica at the start.
const MASTER: usize = 0;

/// Its replica.
const REPLICA: usize = 3;

/// Starts a gateway at a Cluster, with more keys of the section `redis`.
async fn gateway_at(cluster: &Cluster, keys: &str) -> Gateway {
    let yaml = format!("games: [{{ id: mmo }}]\n{}", cluster.yaml(&format!(", {STREAMS}{keys}")));
    connected(Setup { yaml, server: ALL_ANSWERS.to_owned(), ..Setup::default() }).await
}

fn addresses(cluster: &Cluster) -> Vec<Address> {
    cluster.servers.iter().map(|server| Address(server.port)).collect()
}

/// Returns the masters of the streams of the requests and of the deliveries at the start.
async fn owners(cluster: &Cluster) -> [usize; 2] {
    [cluster.slot(REQUESTS).await, cluster.slot(BROADCAST).await].map(Cluster::first_owner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_deliveries_pass_over_streams_at_two_masters() {
    let cluster = Cluster::start(0).await;
    let [of_requests, of_deliveries] = owners(&cluster).await;
    assert_ne!(of_requests, of_deliveries);
    // What was there before is not delivered.
    add(&cluster.servers[of_deliveries], &broadcast(7, 99)).await;
    let gateway = gateway_at(&cluster, "").await;
    let mut client = gateway.client_of(7).await;
    for number in 0..100 {
        client.send(CHAT, &request(number)).await;
    }
    gateway.metric_is("gateway_bus_published_total", 101.0).await;
    assert_eq!(requests(&cluster.servers[of_requests]).await, ((0..100).collect(), 0));
    for number in 1..=100 {
        add(&cluster.servers[of_deliveries], &broadcast(7, number)).await;
    }
    for number in 1..=100 {
        assert_pushed(&mut client, number, &broadcast(7, number.into())).await;
    }
    gateway.metric_is(LAG, 0.0).await;
    assert_eq!((gateway.metric(READ).await, gateway.metric(LOST).await, client.unheard), (100.0, 0.0, 0));
    // The user's own topic is a channel, as before.
    cluster.is_heard("broadcast:user:7").await;
    let message = broadcast(7, 101);
    assert_eq!(cluster.publish("broadcast:user:7", &message).await, Some(1));
    assert_pushed(&mut client, 101, &message).await;
    assert_eq!((gateway.metric(GAPS).await, gateway.get("/readyz").await.0), (0.0, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_under_load_lose_nothing_and_double_nothing() {
    let cluster = Cluster::start(0).await;
    let [mut of_requests, mut of_deliveries] = owners(&cluster).await;
    let (requests, deliveries) = (cluster.slot(REQUESTS).await, cluster.slot(BROADCAST).await);
    let gateway = gateway_at(&cluster, "").await;
    let check = load(&gateway, &addresses(&cluster), 0, async {
        // In the end, no slot is where it was at the start.
        for _ in 0..4 {
            for (slot, owner) in [(requests, &mut of_requests), (deliveries, &mut of_deliveries)] {
                sleep(Duration::from_millis(300)).await;
                let next = (*owner + 1) % 3;
                cluster.migrate(slot, *owner, next).await;
                *owner = next;
            }
        }
        gateway.metric_is(CONNECTED, 1.0).await;
    })
    .await;
    check.holds(&cluster.servers[of_requests]).await;
    assert!(check.refused.is_empty(), "refused while a slot moved: {:?}", check.refused);
    assert_eq!((gateway.metric(LOST).await, gateway.metric(GAPS).await), (0.0, 0.0));
}

/// Stops one of the servers for a moment, kills the master of both streams, and checks what was accepted when its replica
/// has taken over.
async fn survives_a_crash(stopped: usize) {
    let mut cluster = Cluster::start(1).await;
    // Only the first master has a replica, so it gets both streams.
    let [_, of_deliveries] = owners(&cluster).await;
    assert_eq!(Cluster::first_owner(cluster.slot(REQUESTS).await), MASTER);
    cluster.migrate(cluster.slot(BROADCAST).await, of_deliveries, MASTER).await;
    let gateway = gateway_at(&cluster, ", stream_replicas: 1").await;
    let check = load(&gateway, &addresses(&cluster), 1, async {
        sleep(Duration::from_millis(500)).await;
        cluster.servers[stopped].signal("STOP").await;
        sleep(Duration::from_millis(200)).await;
        cluster.servers[MASTER].kill().await;
        if stopped != MASTER {
            cluster.servers[stopped].signal("CONT").await;
        }
        gateway.metric_is(CONNECTED, 0.0).await;
        assert_eq!(gateway.get("/readyz").await.0, 503);
        replication_says(&cluster.servers[REPLICA], "role:master").await;
        cluster.servers[MASTER].restart().await;
        replication_says(&cluster.servers[REPLICA], "state=online").await;
        gateway.metric_is(CONNECTED, 1.0).await;
    })
    .await;
    check.holds(whole_master([&cluster.servers[MASTER], &cluster.servers[REPLICA]]).await).await;
    assert_eq!(gateway.metric(LOST).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_master_that_has_not_read_all_requests_loses_nothing_and_doubles_nothing() {
    survives_a_crash(MASTER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_master_before_its_replica_has_confirmed_loses_nothing_and_doubles_nothing() {
    survives_a_crash(REPLICA).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_the_reader_that_are_killed_lose_nothing_and_double_nothing() {
    let cluster = Cluster::start(0).await;
    let [of_requests, of_deliveries] = owners(&cluster).await;
    let gateway = gateway_at(&cluster, "").await;
    let read_at = &cluster.servers[of_deliveries];
    let check = load(&gateway, &addresses(&cluster), 0, async {
        for _ in 0..5 {
            sleep(Duration::from_millis(200)).await;
            read_at.run(redis::cmd("CLIENT").arg("KILL").arg("ID").arg(reader(read_at).await)).await;
        }
        eventually("the reader is back", || async { (gateway.metric(CONNECTED).await == 1.0).then_some(()) }).await;
    })
    .await;
    check.holds(&cluster.servers[of_requests]).await;
    assert!(check.refused.is_empty(), "refused without a reason: {:?}", check.refused);
    assert_eq!((gateway.metric(LOST).await, gateway.metric(GAPS).await), (0.0, 0.0));
}
