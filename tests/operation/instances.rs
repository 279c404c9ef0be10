//! Tests of the metrics of a plugin's instances: their number and their memory.

use gateway_tests::{Client, Gateway, Setup, greeter, put};
use std::{fs, thread};

const INSTANCES: &str = "gateway_plugin_instances{plugin=\"guest\"}";
const MEMORY: &str = "gateway_plugin_memory_bytes{plugin=\"guest\"}";
const GENERATION: &str = "gateway_plugin_generation{plugin=\"guest\"}";

/// The size of a WebAssembly memory page, in bytes.
const PAGE: f64 = 65_536.0;
/// The number of bytes that the guest allocates for a packet `grow`.
const GROWTH: f64 = (32 << 20) as f64;
/// The number of packets for which a new generation is on probation. The offload thread serves these packets.
const PROBATION: usize = 16;

/// Starts a gateway with system and a plugin `guest` on route 2. The plugin has served enough packets to be off
/// probation.
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

/// Returns the number of instances of a plugin: the number of processors, rounded up to a power of two, and one more
/// for the offload thread.
fn full() -> f64 {
    thread::available_parallelism().unwrap().get().next_power_of_two() as f64 + 1.0
}

#[tokio::test]
async fn plugin_instances_is_exact_after_a_trap_a_swap_and_a_removal() {
    let (gateway, mut client) = start().await;
    assert_eq!(gateway.metric(INSTANCES).await, full());
    // The instance that trapped is dropped, and a new instance replaces it.
    assert_eq!(client.request(2, b"trap").await.status, 8);
    gateway.metric_is("gateway_plugin_calls_total{plugin=\"guest\",outcome=\"trap\"}", 1.0).await;
    gateway.metric_is(INSTANCES, full()).await;
    put(&gateway.plugin("guest"), &greeter("guest", "2", &[2]));
    gateway.metric_is(GENERATION, 2.0).await;
    // The instances of the old generation are dropped when its last call has ended.
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
    // One instance has grown by the bytes of the packet's allocation, and by at most 16 pages for the allocator itself.
    assert!((fresh + GROWTH..fresh + GROWTH + 16.0 * PAGE).contains(&grown), "from {fresh} to {grown} bytes");
    // The swap replaces all instances by new ones.
    put(&gateway.plugin("guest"), &greeter("guest", "2", &[2]));
    gateway.metric_is(GENERATION, 2.0).await;
    gateway.metric_is(MEMORY, fresh).await;
    fs::remove_file(gateway.plugin("guest")).unwrap();
    gateway.metric_is(MEMORY, 0.0).await;
}
