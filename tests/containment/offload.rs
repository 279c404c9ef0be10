//! The offload thread of a plugin: what waits for it is bounded, and it serves only as long as the plugin is slow.

use crate::{GAME, ROUTE, settings};
use futures_util::future::join_all;
use gateway_tests::{Client, Gateway, PATIENCE, Redis, Setup, eventually, put};
use std::{fs, path::Path, time::Duration};
use tokio::time::Instant;

/// The calls that may wait for the offload thread.
const MAX_QUEUED_CALLS: usize = 1024;
/// Slow calls for so many sessions within a second offload the plugin; and some more, since a call is slow only if it was seen running.
const SLOW_SESSIONS: usize = 8;

const OK: &str = "gateway_plugin_calls_total{plugin=\"hostile\",outcome=\"ok\"}";
const BUSY: &str = "gateway_messages_dropped_total{reason=\"plugin_busy\"}";

/// A gateway on this Redis, whose hostile plugin misbehaves as each packet says and serves.
async fn obedient(redis: &Redis) -> Gateway {
    let setup = settings("on_packet", "as-the-packet-says", "call_timeout_ms: 5000");
    let yaml = format!("{}\nredis: {{ addr: \"127.0.0.1:{}\" }}", setup.yaml, redis.port);
    let gateway = Gateway::start(Setup { yaml, ..setup }).await;
    put(&gateway.plugin("hostile"), &fs::read(crate::hostile()).unwrap());
    gateway.logged("plugin loaded\",\"plugin\":\"hostile").await;
    gateway
}

/// Slow calls for different sessions, one right after the other.
async fn be_slow(gateway: &Gateway) {
    let mut clients = join_all((0..SLOW_SESSIONS).map(|_| gateway.client())).await;
    for reply in join_all(clients.iter_mut().map(|client| client.request(ROUTE, b"slow"))).await {
        assert_eq!((reply.status, reply.text()), (0, "slow"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_beyond_1024_that_wait_for_a_slow_plugin_are_dropped_and_counted_as_plugin_busy() {
    const TOO_MANY: usize = 100;
    let redis = Redis::start().await;
    let gateway = obedient(&redis).await;
    let topic = format!("game:request:{GAME}");
    redis.subscribers_are(&topic, 1).await;
    be_slow(&gateway).await;
    let served = gateway.metric(OK).await;
    // This call keeps the offload thread busy for 5 s of processor time.
    let (mut looping, mut other) = (gateway.client().await, gateway.client().await);
    looping.send(ROUTE, b"loop").await;
    looping_call_runs(&gateway).await;
    let mut burst = redis::pipe();
    for _ in 0..MAX_QUEUED_CALLS + TOO_MANY {
        burst.publish(&topic, b"x").ignore();
    }
    burst.exec_async(&mut redis.connection().await).await.unwrap();
    gateway.metric_is(BUSY, TOO_MANY as f64).await;
    // A packet waits in the same queue, and its sender is told.
    let reply = other.request(ROUTE, b"well").await;
    assert_eq!((reply.status, reply.text()), (5, "the plugin is slow, and too many calls wait for it"));
    gateway.logged("bus message refused").await;
    assert_eq!(looping.receive().await.status, 8);
    // Those that waited are served, and no other was dropped.
    gateway.metric_is(OK, served + MAX_QUEUED_CALLS as f64).await;
    assert_eq!(gateway.metric(BUSY).await, TOO_MANY as f64);
    other.assert_alive().await;
}

/// Waits until the offload thread has run for a while: nothing but the call that never ends takes it so long.
async fn looping_call_runs(gateway: &Gateway) {
    let before = offload_time(gateway);
    eventually("the offload thread is busy", || async {
        (offload_time(gateway) > before + Duration::from_millis(100)).then_some(())
    })
    .await;
}

/// The processor time of the plugin's offload thread. None is started before the first call that is offloaded.
fn offload_time(gateway: &Gateway) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    let paths: Vec<_> = tasks.map(|task| task.unwrap().path()).collect();
    let read = |path: &Path, file| fs::read_to_string(path.join(file)).unwrap_or_default();
    let Some(path) = paths.iter().find(|path| read(path, "comm") == "offload-hostile\n") else {
        return Duration::ZERO;
    };
    Duration::from_nanos(read(path, "schedstat").split(' ').next().unwrap().parse().unwrap())
}

/// The processor time of the offload thread during calls for a session that is not slow.
async fn offload_time_of_1000_calls(gateway: &Gateway, client: &mut Client) -> Duration {
    let before = offload_time(gateway);
    for _ in 0..1000 {
        assert_eq!(client.request(ROUTE, b"well").await.text(), "well");
    }
    offload_time(gateway) - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_returns_from_its_offload_thread_when_its_calls_are_not_slow_any_more() {
    let redis = Redis::start().await;
    let gateway = obedient(&redis).await;
    let mut client = gateway.client().await;
    // A new generation is on probation for 16 calls.
    is_inline(&gateway, &mut client, "after the probation").await;
    be_slow(&gateway).await;
    let slow = Instant::now();
    let busy = offload_time_of_1000_calls(&gateway, &mut client).await;
    assert!(busy > Duration::from_millis(1), "right after slow calls the offload thread ran for {busy:?}");
    is_inline(&gateway, &mut client, "long after the slow calls").await;
    // A plugin stays offloaded for 5 s after its last slow call, which ended before this clock began.
    assert!(slow.elapsed() > Duration::from_secs(4), "it returned after {:?}", slow.elapsed());
}

/// Waits until the calls run on the threads that serve players: until the offload thread does not run at all.
async fn is_inline(gateway: &Gateway, client: &mut Client, when: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !offload_time_of_1000_calls(gateway, client).await.is_zero() {
        assert!(Instant::now() < deadline, "{when} calls are still offloaded");
    }
}
