//! A test of a thousand reloads under load.

use crate::bystander::Bystander;
use gateway_tests::{Gateway, Setup, greeter, put};
use std::{fmt::Write, fs};

/// The number of plugins that are reloaded.
const PLUGINS: u8 = 20;
/// The number of measured rounds. In each round all plugins get new settings, and one plugin also gets a new file.
const ROUNDS: u32 = 48;
/// The number of rounds before the measured ones, in which the allocator reaches its level.
const WARM_UP: u32 = 30;

/// Returns the resident memory in KiB.
fn resident(gateway: &Gateway) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn setup(greeting: u32) -> Setup {
    let mut settings = String::new();
    for i in 0..PLUGINS {
        write!(settings, "g{i}: {{ config: {{ greeting: \"{greeting}\" }} }}, ").unwrap();
    }
    let yaml = format!("games: [{{ id: mmo }}]\nplugins: {{ directory: plugins, settings: {{ {settings} }} }}");
    Setup { yaml, ..Setup::default() }
}

fn generation(plugin: u8) -> String {
    format!("gateway_plugin_generation{{plugin=\"g{plugin}\"}}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_reloads_lose_nothing_and_leave_nothing_behind() {
    let gateway = Gateway::start(setup(0)).await;
    for i in 0..PLUGINS {
        put(&gateway.plugin(&format!("g{i}")), &greeter(&format!("g{i}"), "0.0.0", &[0x20 + i]));
        gateway.metric_is(&generation(i), 1.0).await;
    }
    let bystander = Bystander::start(&gateway).await;
    let mut memory = Vec::new();
    for round in 1..=WARM_UP + ROUNDS {
        reload(&gateway, round).await;
        if round > WARM_UP {
            memory.push(resident(&gateway));
        }
    }
    // A compilation allocates and frees about 10 MiB, so single readings differ by that much. The medians of the first
    // and of the last third of the readings do not, and two thirds of the reloads lie between them.
    let third = memory.len() / 3;
    let grown = median(&memory[2 * third..]).saturating_sub(median(&memory[..third]));
    assert!(grown < 10 * 1024, "memory grew by {grown} KiB: {memory:?}");
    for i in 0..PLUGINS {
        gateway.metric_is(&format!("gateway_plugin_live_generations{{plugin=\"g{i}\"}}"), 1.0).await;
    }
    bystander.finish().await;
}

/// Changes the settings of all plugins, and the file of the first one.
async fn reload(gateway: &Gateway, round: u32) {
    gateway.reconfigure(&setup(round));
    for i in 1..PLUGINS {
        gateway.metric_is(&generation(i), f64::from(1 + round)).await;
    }
    let before = gateway.metric(&generation(0)).await;
    put(&gateway.plugin("g0"), &greeter("g0", &format!("0.0.{round}"), &[0x20]));
    gateway.metric_is(&generation(0), before + 1.0).await;
}

fn median(readings: &[u64]) -> u64 {
    let mut sorted = readings.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}
