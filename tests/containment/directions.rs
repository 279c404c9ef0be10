//! A test that a plugin that is slow with messages from Redis delays neither messages to Redis nor other routes.

use crate::{GAME, loaded, settings};
use gateway_tests::{Redis, Setup, chat_request, eventually};
use std::fs;

/// The calls that were ended at their deadline.
const ENDED: &str = "gateway_plugin_calls_total{plugin=\"hostile\",outcome=\"deadline\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_loops_on_a_bus_message_delays_neither_requests_to_redis_nor_heartbeats() {
    let redis = Redis::start().await;
    let setup = settings("on_message", "loop", "call_timeout_ms: 5000");
    let yaml = format!("{}\nredis: {{ addr: \"127.0.0.1:{}\", timeout_ms: 30000 }}", setup.yaml, redis.port);
    let gateway = loaded(Setup { yaml, ..setup }).await;
    let topic = format!("game:request:{GAME}");
    redis.subscribers_are(&topic, 1).await;
    let mut backend = redis.subscribe("game:request:mmo").await;
    let (mut client, mut other) = (gateway.client().await, gateway.client().await);
    // A gateway that has just started publishes nothing before its subscriptions are confirmed.
    client.send(1, &chat_request("mmo", 1, "first")).await;
    backend.next().await;
    other.assert_alive().await;

    let before = processor_time(gateway.pid());
    assert_eq!(redis.publish(&topic, b"x").await, 1);
    // The call takes 5 s of processor time, and nothing else takes so much.
    eventually("the call runs", || async { (processor_time(gateway.pid()) > before + 20).then_some(()) }).await;
    for number in 0..50 {
        let request = chat_request("mmo", 1, &number.to_string());
        client.send(1, &request).await;
        assert_eq!(backend.next().await, request);
        other.assert_alive().await;
    }
    assert_eq!(gateway.metric(ENDED).await, 0.0, "the requests were served only after the call");
    gateway.metric_is(ENDED, 1.0).await;
}

/// Returns the user and system time of all threads of a process, in ticks of 10 ms.
fn processor_time(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
