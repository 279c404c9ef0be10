//! What is told of a plugin's instances: how many there are, and their memory.

use gateway_tests::{Client, Gateway, Setup, greeter, put};
use std::{fs, thread};

const INSTANCES: &str = "gateway_plugin_instances{plugin=\"guest\"}";
const MEMORY: &str = "gateway_plugin_memory_bytes{plugin=\"guest\"}";
const GENERATION: &str = "gateway_plugin_generation{plugin=\"guest\"}";

/// A page of WebAssembly's memory, in bytes.
const PAGE: f64 = 65_536.0;
/// What a packet `grow` makes the guest take.
const GROWTH: f64 = (32 << 20) as f64;
/// Packets of a new generation that its offload thread serves, until it has shown that it is quick.
const PROBATION: usize = 16;

/// System, and a plugin `guest` on route 2 that has served enough packets to be off probation.
async fn start() -> (Gateway, Client) {
    let settings = "{ guest: { call_timeout_ms: 10000 } }";
    let yaml = format!("plugins: {{ directory: plugins, settings: {settings} }}");
    let files = vec![("guest.wasm", greeter("guest", "1", &[2]))];
    let gateway = Gateway::start(Setup { yaml, plugins: vec!["system"], files, ..Setup::default() }).await;
    let mut client = gateway.client().await;
    for _ in 0..PROBATION {
        assert_eq!(client.request(2, b"hello").await.text(), "1");
    }
    (gateway, client)
}

/// One instance for each processor, rounded up to a power of two, and one for the offload thread.
fn full() -> f64 {
    thread::available_parallelism().unwrap().get().next_power_of_two() as f64 + 1.0
}

#[tokio::test]
async fn plugin_instances_counts_those_that_live_through_traps_swaps_and_the_removal() {
    let (gateway, mut client) = start().await;
    assert_eq!(gateway.metric(INSTANCES).await, full());
    // The instance that trapped is lost, and another one takes its place.
    assert_eq!(client.request(2, b"trap").await.status, 8);
    gateway.metric_is("gateway_plugin_calls_total{plugin=\"guest\",outcome=\"trap\"}", 1.0).await;
    gateway.metric_is(INSTANCES, full()).await;
    put(&gateway.plugin("guest"), &greeter("guest", "2", &[2]));
    gateway.metric_is(GENERATION, 2.0).await;
    // Those of the generation before are gone when its last call has ended.
    gateway.metric_is("gateway_plugin_live_generations{plugin=\"guest\"}", 1.0).await;
    gateway.metric_is(INSTANCES, full()).await;
    fs::remove_file(gateway.plugin("guest")).unwrap();
    gateway.metric_is(INSTANCES, 0.0).await;
    client.assert_alive().await;
}

#[tokio::test]
async fn plugin_memory_bytes_is_the_linear_memory_of_all_instances() {
    let (gateway, mut client) = start().await;
    let fresh = gateway.metric(MEMORY).await;
    let each = fresh / full();
    assert!(each >= PAGE && each % PAGE == 0.0, "{fresh} bytes of {} instances", full());
    assert_eq!(client.request(2, b"grow").await.text(), GROWTH.to_string());
    let grown = gateway.metric(MEMORY).await;
    // One instance has grown, by what the packet asked for and what the allocator needs besides.
    assert!((fresh + GROWTH..fresh + GROWTH + 16.0 * PAGE).contains(&grown), "from {fresh} to {grown} bytes");
    // Fresh instances take the place of all.
    put(&gateway.plugin("guest"), &greeter("guest", "2", &[2]));
    gateway.metric_is(GENERATION, 2.0).await;
    gateway.metric_is(MEMORY, fresh).await;
    fs::remove_file(gateway.plugin("guest")).unwrap();
    gateway.metric_is(MEMORY, 0.0).await;
}
