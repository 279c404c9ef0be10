//! A test of a group with thousands of members, and the clients for it.

use crate::{
    ask,
    bystander::{Bystander, percentile},
    probing,
};
use futures_util::{StreamExt, stream};
use gateway_tests::{
    Gateway, Setup, raise_open_files,
    wire::{BINARY, UPGRADE, Wire},
};
use std::time::Duration;

/// The number of members of the group.
const MEMBERS: usize = 10_000;
/// The number of clients that connect at the same time.
const CONCURRENT: usize = 50;

/// Connects this many clients that are members of group 5. They take little memory.
pub(crate) async fn connect(gateway: &Gateway, count: usize) -> Vec<Wire> {
    let connecting = (0..count).map(async |_| {
        let mut wire = Wire::connect(gateway.address).await;
        wire.send(UPGRADE.replace("/ws", "/ws?do=join+5").as_bytes()).await;
        assert_eq!(wire.response().await.status, 101);
        let _welcome = wire.frame().await.expect("a welcome");
        wire
    });
    stream::iter(connecting).buffer_unordered(CONCURRENT).collect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_delivery_reaches_each_of_10_000_members_of_a_group_and_delays_nobody() {
    raise_open_files(MEMBERS as u64 + 1000);
    // The members answer no pings while they are not read.
    let server = "ping_interval_s: 500, idle_timeout_s: 1000".to_owned();
    let gateway = Gateway::start(Setup { server, ..probing("") }).await;
    let mut members = connect(&gateway, MEMBERS).await;
    let mut client = gateway.client().await;
    let bystander = Bystander::start(&gateway).await;
    ask(&mut client, "deliver group:5 always hello").await;
    for member in &mut members {
        let (first, push) = member.frame().await.expect("a push");
        assert_eq!((first, &push[..]), (BINARY, &b"\0\0\0\x01\x70\0\0\0hello"[..]));
    }
    bystander.finish().await;
    gateway.metric_is("gateway_plugin_pushes_total{plugin=\"probe\"}", 10_000.0).await;
    gateway.metric_is("gateway_deliveries_total{outcome=\"delivered\"}", 1.0).await;
    client.assert_alive().await;

    // Six such deliveries in one call are nearly as many as a call may make. The members do not read them meanwhile.
    let mut worst = Vec::new();
    for round in 2..=6 {
        let bystander = Bystander::start(&gateway).await;
        ask(&mut client, "repeat 6 deliver group:5 always x").await;
        gateway
            .metric_is("gateway_plugin_pushes_total{plugin=\"probe\"}", 10_000.0 + 60_000.0 * f64::from(round - 1))
            .await;
        let latencies = bystander.finish().await;
        println!("p99 {:?}, worst {:?} of {}", percentile(&latencies, 99), latencies.last(), latencies.len());
        worst.push(*latencies.last().unwrap());
    }
    // Other work on the machine delays single runs. The delivery alone takes several times this limit.
    worst.sort();
    assert!(worst[2] < Duration::from_millis(200), "the longest latency of each run: {worst:?}");

    // Seven such deliveries in one call are too many for `pushes`, and none is carried out.
    let reply = client.request(crate::PROBE, b"repeat 7 deliver group:5 always x").await;
    let why = "the plugin would deliver to 70000 sessions at once, and 65536 are the most (`pushes`)";
    assert_eq!((reply.status, reply.text()), (8, why));
}
