//! Tests of a plugin's offload thread. The number of calls that wait for the thread is bounded. The thread serves only
//! while the plugin is slow.

use crate::{GAME, ROUTE, settings};
use futures_util::future::join_all;
use gateway_tests::{Client, Gateway, PATIENCE, Redis, Setup, eventually, put};
use std::{fs, path::Path, time::Duration};
use tokio::time::Instant;

/// The maximum number of calls that wait for the offload thread.
const MAX_QUEUED_CALLS: usize = 1024;
/// The number of sessions with a slow call. Three slow sessions within a second offload the plugin. The others are
/// spare, since the gateway ignores the processor time of a call that ends within a few ticks of its clock.
const SLOW_SESSIONS: usize = 8;

const OK: &str = "gateway_plugin_calls_total{plugin=\"hostile\",outcome=\"ok\"}";
const BUSY: &str = "gateway_messages_dropped_total{reason=\"plugin_busy\"}";

/// Starts a gateway with this Redis and the hostile plugin. Each packet tells the plugin how to misbehave. Waits until
/// the plugin is loaded.
async fn obedient(redis: &Redis) -> Gateway {
    let setup = settings("on_packet", "as-the-packet-says", "call_timeout_ms: 2000");
    let yaml = format!("{}\nredis: {{ addr: \"127.0.0.1:{}\", timeout_ms: 30000 }}", setup.yaml, redis.port);
    let gateway = Gateway::start(Setup { yaml, ..setup }).await;
    put(&gateway.plugin("hostile"), &fs::read(crate::hostile()).unwrap());
    gateway.logged("plugin loaded\",\"plugin\":\"hostile").await;
    gateway
}

/// Makes slow calls for `SLOW_SESSIONS` different sessions, all within a short time.
async fn be_slow(gateway: &Gateway) {
    let mut clients = join_all((0..SLOW_SESSIONS).map(|_| gateway.client())).await;
    for reply in join_all(clients.iter_mut().map(|client| client.request(ROUTE, b"slow"))).await {
        assert_eq!((reply.status, reply.text()), (0, "slow"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bus_messages_beyond_1024_waiting_calls_are_dropped_and_counted_as_plugin_busy() {
    const TOO_MANY: usize = 100;
    let redis = Redis::start().await;
    let gateway = obedient(&redis).await;
    let topic = format!("game:request:{GAME}");
    redis.subscribers_are(&topic, 1).await;
    be_slow(&gateway).await;
    let served = gateway.metric(OK).await;
    // This call keeps the offload thread busy for 2 s of processor time.
    let (mut looping, mut other) = (gateway.client().await, gateway.client().await);
    looping.send(ROUTE, b"loop").await;
    looping_call_runs(&gateway).await;
    let mut burst = redis::pipe();
    for _ in 0..MAX_QUEUED_CALLS + TOO_MANY {
        burst.publish(&topic, b"x").ignore();
    }
    burst.exec_async(&mut redis.connection().await).await.unwrap();
    gateway.metric_is(BUSY, TOO_MANY as f64).await;
    // Packets use the same queue. A packet that finds the queue full is answered with status 5.
    let reply = other.request(ROUTE, b"well").await;
    assert_eq!((reply.status, reply.text()), (5, "the plugin is slow, and too many calls wait for it"));
    gateway.logged("bus message refused").await;
    assert_eq!(looping.receive().await.status, 8);
    // The gateway serves every queued message and drops no further message.
    gateway.metric_is(OK, served + MAX_QUEUED_CALLS as f64).await;
    assert_eq!(gateway.metric(BUSY).await, TOO_MANY as f64);
    other.assert_alive().await;
}

/// Waits until the offload thread has used 100 ms of processor time. Only the call that never ends uses so much.
async fn looping_call_runs(gateway: &Gateway) {
    let before = offload_time(gateway);
    eventually("the offload thread is busy", || async {
        (offload_time(gateway) > before + Duration::from_millis(100)).then_some(())
    })
    .await;
}

/// Returns the processor time of the plugin's offload thread. The time is zero before the first offloaded call, which
/// starts the thread.
fn offload_time(gateway: &Gateway) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    let paths: Vec<_> = tasks.map(|task| task.unwrap().path()).collect();
    let read = |path: &Path, file| fs::read_to_string(path.join(file)).unwrap_or_default();
    let Some(path) = paths.iter().find(|path| read(path, "comm") == "offload-hostile\n") else {
        return Duration::ZERO;
    };
    Duration::from_nanos(read(path, "schedstat").split(' ').next().unwrap().parse().unwrap())
}

/// Returns the processor time that the offload thread uses during 1000 quick calls of this client.
async fn offload_time_of_1000_calls(gateway: &Gateway, client: &mut Client) -> Duration {
    let before = offload_time(gateway);
    for _ in 0..1000 {
        assert_eq!(client.request(ROUTE, b"well").await.text(), "well");
    }
    offload_time(gateway) - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_leaves_its_offload_thread_once_its_calls_are_quick_again() {
    let redis = Redis::start().await;
    let gateway = obedient(&redis).await;
    let mut client = gateway.client().await;
    // A new generation is on probation for 16 calls, which run on the offload thread.
    is_inline(&gateway, &mut client, "after the probation").await;
    be_slow(&gateway).await;
    let slow = Instant::now();
    let busy = offload_time_of_1000_calls(&gateway, &mut client).await;
    assert!(busy > Duration::from_millis(1), "right after the slow calls, the offload thread ran for only {busy:?}");
    is_inline(&gateway, &mut client, "long after the slow calls").await;
    // A plugin stays offloaded for 5 s after its last slow call. The call ended shortly before `slow` was taken, so the
    // test expects a little less than 5 s.
    assert!(slow.elapsed() > Duration::from_secs(4), "the plugin left its offload thread after {:?}", slow.elapsed());
}

/// Waits until 1000 calls use no processor time of the offload thread. Then the calls run on the threads that serve
/// players.
async fn is_inline(gateway: &Gateway, client: &mut Client, when: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !offload_time_of_1000_calls(gateway, client).await.is_zero() {
        assert!(Instant::now() < deadline, "{when}: calls are still offloaded");
    }
}
