//! A thousand reloads under load.

use crate::bystander::Bystander;
use gateway_tests::{Gateway, Setup, dist, greeter, put};
use std::fs;

const RELOADS: u32 = 1000;

/// Resident memory in KiB.
fn resident(gateway: &Gateway) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_reloads_lose_nothing_and_leave_nothing_behind() {
    let gateway = Gateway::start(Setup::default()).await;
    assert!(dist("system").exists());
    let bystander = Bystander::start(&gateway).await;
    let generation = "gateway_plugin_generation{plugin=\"greeter\"}";
    let mut before = 0;
    for reload in 1..=RELOADS {
        put(&gateway.plugin("greeter"), &greeter("greeter", &format!("0.0.{reload}"), &[0x20]));
        gateway.metric_is(generation, f64::from(reload)).await;
        if reload == RELOADS / 10 {
            before = resident(&gateway);
        }
    }
    let grown = resident(&gateway).saturating_sub(before);
    assert!(grown < 10 * 1024, "memory grew by {grown} KiB");
    gateway.metric_is("gateway_plugin_live_generations{plugin=\"greeter\"}", 1.0).await;
    gateway.metric_is("gateway_plugin_live_generations{plugin=\"system\"}", 1.0).await;
    bystander.finish().await;
}
