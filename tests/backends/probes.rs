//! Tests of failures that have no error of their own: bytes that are dropped on the way to Redis, a master that becomes
//! a replica, and an ACL that forbids the probes.

use super::{BROADCAST, CHAT, REQUESTS, assert_pushed, broadcast, connected, stage};
use gateway_tests::{
    Bound, Client, Connections, Gateway, MASTER, PATIENCE, Proxy, Redis, Sentinels, Setup, chat_request, eventually,
};
use std::time::Duration;
use tokio::time::{self, Instant};

const CONNECTED: &str = "gateway_bus_connected";
const FAILURES: &str = "gateway_bus_probe_failures_total";

/// The time within which a dead connection is found and replaced with the default settings.
const FOUND: Duration = Duration::from_secs(5);

/// The part of a reason that says that a server is no master.
const REPLICA: &str = "is a replica, not a master";

/// Waits until `/readyz` answers 503 with this reason.
async fn is_not_ready(gateway: &Gateway, because: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, report) = gateway.get("/readyz").await;
        if status == 503 && report.contains(because) {
            return;
        }
        assert!(Instant::now() < deadline, "not {because:?} but {report}: {:#?}", gateway.log_lines());
        time::sleep(Duration::from_millis(10)).await;
    }
}

/// Asserts that messages pass in both directions. `seq` is the number of the client's next push.
async fn carries_both_ways(redis: &Redis, client: &mut Client, seq: u32) {
    let mut heard = redis.subscribe(REQUESTS).await;
    let request = chat_request("mmo", 7, "hi");
    client.send(CHAT, &request).await;
    assert_eq!(heard.next().await, request);
    redis.publish(BROADCAST, &broadcast(7, 1)).await;
    assert_pushed(client, seq, &broadcast(7, 1)).await;
}

/// Returns the directions of the log lines with this message, in their order.
fn directions(gateway: &Gateway, message: &str) -> Vec<String> {
    let lines = gateway.log_lines();
    let of_message = lines.iter().filter(|line| line["fields"]["message"] == message);
    of_message.map(|line| line["fields"]["direction"].as_str().unwrap().to_owned()).collect()
}

/// Drops bytes silently. Asserts that this is found in time, that `/readyz` says why, and that only the connection that
/// it concerns is replaced.
async fn is_found(connections: Connections, bound: Bound) {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let gateway = connected(proxy.setup_with_defaults()).await;
    let mut client = gateway.client().await;
    carries_both_ways(&redis, &mut client, 1).await;
    assert_eq!(gateway.metric(FAILURES).await, 0.0);

    let began = Instant::now();
    proxy.drop_silently(connections, bound);
    is_not_ready(&gateway, &format!("nothing has arrived from 127.0.0.1:{} since ", proxy.port)).await;
    gateway.metric_is(FAILURES, 1.0).await;
    gateway.metric_is(CONNECTED, 1.0).await;
    assert!(began.elapsed() < FOUND, "{:?}", began.elapsed());
    let direction = if connections == Connections::Subscribing { "Subscribe" } else { "Publish" };
    assert_eq!(directions(&gateway, "bus not connected, trying again"), [direction]);
    carries_both_ways(&redis, &mut client, 2).await;
    assert_eq!((gateway.metric(FAILURES).await, gateway.get("/readyz").await.0), (1.0, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_messages_of_the_subscription_are_found() {
    is_found(Connections::Subscribing, Bound::ToGateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_answers_to_publishes_are_found() {
    is_found(Connections::Publishing, Bound::ToGateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_publishes_are_found() {
    is_found(Connections::Publishing, Bound::ToRedis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_commands_of_the_subscription_are_found_although_messages_arrive() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let gateway = connected(proxy.setup_with_defaults()).await;
    let mut client = gateway.client().await;
    carries_both_ways(&redis, &mut client, 1).await;
    let began = Instant::now();
    proxy.drop_silently(Connections::Subscribing, Bound::ToRedis);
    gateway.metric_is(FAILURES, 1.0).await;
    gateway.metric_is(CONNECTED, 1.0).await;
    assert!(began.elapsed() < FOUND, "{:?}", began.elapsed());
    let line = gateway.logged("bus not connected, trying again").await;
    assert_eq!(line["fields"]["error"], "it does not answer within 2s (`redis.timeout_ms`)", "{line}");
    carries_both_ways(&redis, &mut client, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_is_not_ready_and_is_used_again_afterwards() {
    let (redis, gateway) = stage().await;
    let mut client = gateway.client().await;
    redis.signal("STOP").await;
    is_not_ready(&gateway, &format!("nothing has arrived from 127.0.0.1:{} since ", redis.port)).await;
    // The publisher does not probe while it waits for the subscriber, so the failures may be one or two.
    eventually("a failed probe", || async { (gateway.metric(FAILURES).await >= 1.0).then_some(()) }).await;
    redis.signal("CONT").await;
    gateway.metric_is(CONNECTED, 1.0).await;
    redis.subscribers_are(BROADCAST, 1).await;
    carries_both_ways(&redis, &mut client, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_becomes_a_replica_while_its_connections_stay_open_is_left() {
    let (redis, gateway) = stage().await;
    let master = Redis::start().await;
    let mut client = gateway.client().await;
    carries_both_ways(&redis, &mut client, 1).await;
    redis.replicate(Some(&master)).await;
    is_not_ready(&gateway, &format!("127.0.0.1:{} {REPLICA}", redis.port)).await;
    redis.subscribers_are(BROADCAST, 0).await;
    gateway.metric_is(FAILURES, 2.0).await;
    assert_eq!(gateway.metric(CONNECTED).await, 0.0);
    redis.replicate(None).await;
    gateway.metric_is(CONNECTED, 1.0).await;
    carries_both_ways(&redis, &mut client, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_leads_to_a_replica_is_not_used() {
    let (redis, master) = (Redis::start().await, Redis::start().await);
    redis.replicate(Some(&master)).await;
    let gateway = Gateway::start(Setup::redis(&redis)).await;
    is_not_ready(&gateway, &format!("127.0.0.1:{} {REPLICA}", redis.port)).await;
    let line = gateway.logged("bus not connected").await;
    assert!(line["fields"]["error"].as_str().unwrap().contains(REPLICA), "{line}");
    // No connection was ever good, so no probe has failed.
    assert_eq!((gateway.metric(FAILURES).await, gateway.metric(CONNECTED).await), (0.0, 0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_becomes_a_replica_is_left_even_if_no_sentinel_says_so() {
    let redis = Sentinels::start().await;
    let yaml = format!("games: [{{ id: mmo }}]\n{}", redis.yaml(MASTER, ""));
    let gateway = connected(Setup { yaml, ..Setup::default() }).await;
    // The Sentinels do nothing about this for 21 s, because the server still answers them.
    redis.servers[0].replicate(Some(&redis.servers[1])).await;
    gateway.metric_is(FAILURES, 2.0).await;
    gateway.logged(&format!("127.0.0.1:{} {REPLICA}", redis.servers[0].port)).await;
    redis.servers[0].replicate(None).await;
    gateway.metric_is(CONNECTED, 1.0).await;
    let lines = gateway.log_lines();
    assert!(!lines.iter().any(|line| line.to_string().contains("the master is now")), "{lines:#?}");
}

/// Starts a gateway on a Redis with these rules of the ACL. Asserts that a missing right costs no connection, that
/// messages pass, and that the log names the rule to add, once for each connection that misses it.
async fn serves_without(rules: &[&str], missing: &str, warnings: usize) {
    let redis = Redis::start().await;
    redis.run(redis::cmd("ACL").arg("SETUSER").arg("default").arg(rules)).await;
    let gateway = connected(Setup::redis_with(&redis, "probe_interval_ms: 100")).await;
    let commands = async || redis.calls("publish").await + redis.calls("ping").await + redis.calls("role").await;
    let before = commands().await;
    eventually("ten probes", || async { (commands().await >= before + 20).then_some(()) }).await;
    let lines = gateway.log_lines();
    let count = lines.iter().filter(|line| line.to_string().contains(missing)).count();
    assert_eq!(count, warnings, "{lines:#?}");
    assert_eq!(directions(&gateway, "bus not connected, trying again"), [""; 0]);
    assert_eq!((gateway.metric(FAILURES).await, gateway.metric(CONNECTED).await), (0.0, 1.0));
    let mut client = gateway.client().await;
    carries_both_ways(&redis, &mut client, 1).await;
    // A silent connection is still found.
    redis.signal("STOP").await;
    eventually("a failed probe", || async { (gateway.metric(FAILURES).await >= 1.0).then_some(()) }).await;
    redis.signal("CONT").await;
    gateway.metric_is(CONNECTED, 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acl_without_the_channel_of_the_probes_costs_a_warning_and_no_connection() {
    let channels = ["resetchannels", "&broadcast*", "&game:*", "&gateway:host", "&gateway:control"];
    serves_without(&channels, "add `&gateway:*` to the ACL", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acl_without_role_costs_a_warning_and_no_connection() {
    serves_without(&["-role"], "add `+role` to the ACL", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acl_without_both_costs_warnings_and_no_connection() {
    let rules = ["-role", "resetchannels", "&broadcast*", "&game:*", "&gateway:host", "&gateway:control"];
    serves_without(&rules, "to the ACL of the gateway's user", 3).await;
}
