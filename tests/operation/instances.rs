//! Tests of the metrics of a plugin's instances: their number and their memory.

use gateway_tests::{Client, Gateway, PATIENCE, Setup, greeter, guest, put};
use std::{
    fs, thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time;

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

/// Returns settings under which the plugin `hostile` cannot start within a time, in milliseconds since 1970.
fn failing(from: u128, to: u128) -> Setup {
    let config = format!("{{ configure: panic-between {from} {to}, on_packet: as-the-packet-says }}");
    let yaml = format!("plugins: {{ directory: plugins, settings: {{ hostile: {{ config: {config} }} }} }}");
    let files = vec![("hostile.wasm", fs::read(guest("hostile")).unwrap())];
    Setup { yaml, plugins: vec!["system"], files, ..Setup::default() }
}

fn unix_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

#[tokio::test]
async fn an_instance_that_cannot_be_started_is_logged_and_started_later() {
    const INSTANCES: &str = "gateway_plugin_instances{plugin=\"hostile\"}";
    const HOSTILE: u8 = 0x66;
    let gateway = Gateway::start(failing(0, 0)).await;
    // The new settings are in use long before the start fails.
    let from = unix_ms() + 5000;
    let to = from + 3000;
    gateway.reconfigure(&failing(from, to));
    gateway.metric_is("gateway_plugin_generation{plugin=\"hostile\"}", 2.0).await;
    let mut client = gateway.client().await;
    for _ in 0..PROBATION {
        assert_eq!(client.request(HOSTILE, b"well").await.text(), "well");
    }
    let left = from.saturating_sub(unix_ms());
    time::sleep(Duration::from_millis(u64::try_from(left).unwrap())).await;
    assert_eq!(client.request(HOSTILE, b"panic").await.status, 8);
    let line = gateway.logged("no instance can be started in place of one that failed").await;
    assert!(line["fields"]["error"].as_str().unwrap().contains("trap"), "{line}");
    // While it is called, the plugin tries again, and counts an instance that is about to fail.
    let started = "the instances that could not be started have started";
    while !gateway.log_lines().iter().any(|line| line.to_string().contains(started)) {
        assert!(unix_ms() < to + PATIENCE.as_millis(), "the instance is not started again");
        assert_eq!(client.request(HOSTILE, b"well").await.text(), "well");
        time::sleep(Duration::from_millis(100)).await;
    }
    assert!(unix_ms() >= to);
    gateway.metric_is(INSTANCES, full()).await;
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
