//! Tests of quarantine and offloading: a plugin that keeps failing is not called for a while, and a slow plugin is
//! called on an offload thread.

use crate::{
    GAME, ROUTE,
    bystander::{Bystander, percentile},
    loaded,
    quickness::assert_stays_quick,
    settings,
};
use gateway_tests::{Gateway, PATIENCE, chat_request, eventually};
use std::{mem, time::Duration};
use tokio::time::{self, Instant};

const QUARANTINED: &str = "gateway_plugin_quarantined{plugin=\"hostile\"}";

async fn misbehaving(call: &str, way: &str) -> Gateway {
    loaded(settings(call, way, "")).await
}

#[tokio::test]
async fn a_plugin_that_keeps_failing_is_quarantined_until_it_is_reloaded() {
    let gateway = misbehaving("on_packet", "panic").await;
    for _ in 0..5 {
        assert_eq!(gateway.client().await.request(ROUTE, b"").await.status, 8);
    }
    let mut client = gateway.client().await;
    let reply = client.request(ROUTE, b"").await;
    assert_eq!((reply.status, reply.text()), (5, "the plugin is in quarantine: it keeps failing"));
    gateway.metric_is(QUARANTINED, 1.0).await;
    gateway.logged("plugin quarantined").await;
    let (code, report) = gateway.get("/readyz").await;
    assert!(code == 200 && report.contains("\"quarantined\":[\"hostile\"]"), "{report}");
    client.assert_alive().await;
    // A reload ends the quarantine.
    gateway.reconfigure(&settings("on_packet", "well", ""));
    gateway.metric_is(QUARANTINED, 0.0).await;
    assert_eq!(client.request(ROUTE, b"").await.status, 0);
}

#[tokio::test]
async fn a_quarantined_plugin_is_tried_again_after_a_pause() {
    let gateway = misbehaving("on_packet", "panic").await;
    // For each failed call: its start, its end, and the number of refused calls since the failure before.
    let (mut failed, mut refused) = (Vec::new(), 0);
    let deadline = Instant::now() + PATIENCE;
    // Seven calls fail: five until the quarantine, a trial after 1 s, and a second trial 2 s later. Each call comes
    // from a new session, since the gateway counts the sessions for which a plugin fails.
    while failed.len() < 7 {
        assert!(Instant::now() < deadline, "the plugin is not tried again: {failed:?}");
        let asked = Instant::now();
        match gateway.client().await.request(ROUTE, b"").await.status {
            8 => failed.push((asked, Instant::now(), mem::take(&mut refused))),
            5 => refused += 1,
            other => panic!("status {other}"),
        }
        time::sleep(Duration::from_millis(10)).await;
    }
    assert!(failed[..5].iter().all(|(.., refused)| *refused == 0), "{failed:?}");
    for (trial, pause) in [(5, 1), (6, 2)] {
        let (before, (_, ended, refused)) = (failed[trial - 1].0, failed[trial]);
        assert!(ended - before >= Duration::from_secs(pause) && refused > 0, "{failed:?}");
    }
}

#[tokio::test]
async fn a_plugin_that_fails_only_on_every_third_call_is_not_quarantined() {
    let gateway = misbehaving("on_packet", "every-third-call").await;
    let bystander = Bystander::start(&gateway).await;
    // Each instance counts its own calls. After each failure, a fresh instance replaces the failed one.
    let mut failed = 0;
    for _ in 0..10 {
        let mut client = gateway.client().await;
        for _ in 0..6 {
            let status = client.request(ROUTE, b"").await.status;
            assert!(status == 0 || status == 8, "{status}");
            failed += usize::from(status == 8);
        }
    }
    assert!((10..=20).contains(&failed), "{failed} of 60 failed");
    assert!(gateway.metric(QUARANTINED).await < 0.5);
    bystander.finish().await;
}

#[tokio::test]
async fn bus_messages_for_a_plugin_that_loops_are_counted_and_delay_no_other_route() {
    let gateway = misbehaving("on_message", "loop").await;
    let bystander = Bystander::start(&gateway).await;
    let mut client = gateway.client().await;
    for _ in 0..10 {
        let mut other = gateway.client().await;
        other.send(1, &chat_request(GAME, 1, "x")).await;
        other.assert_alive().await;
    }
    client.assert_alive().await;
    let lost = || async {
        let failed = gateway.metric("gateway_routing_errors_total{reason=\"message_fault\"}").await;
        let dropped = gateway.metric("gateway_messages_dropped_total{reason=\"plugin_quarantined\"}").await;
        (failed + dropped > 9.5).then_some((failed, dropped))
    };
    let (failed, dropped) = eventually("ten messages that failed or were dropped", lost).await;
    assert!(failed >= 5.0 && dropped >= 1.0 && failed + dropped < 10.5, "{failed} failed, {dropped} dropped");
    bystander.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_packet_waits_for_a_slow_plugin_still_receives_pushes() {
    let mut setup = settings("on_packet", "loop", "call_timeout_ms: 2000");
    setup.plugins.push("demo-chat");
    let gateway = loaded(setup).await;
    let (mut client, mut other) = (gateway.client().await, gateway.client().await);
    client.send(1, &chat_request("mmo", 1, "x")).await;
    assert_eq!(client.receive().await.route, 1);
    // The first of the two looping calls shows the gateway that the session's calls are slow.
    assert_eq!(client.request(ROUTE, b"").await.status, 8);
    client.send(ROUTE, b"").await;
    other.send(1, &chat_request("mmo", 1, "to both sessions of the user")).await;
    let push = client.receive().await;
    assert_eq!((push.route, push.flags), (1, 0), "the answer to the other session's request");
    let ended = gateway.metric("gateway_plugin_calls_total{plugin=\"hostile\",outcome=\"deadline\"}").await;
    assert!(ended < 1.5, "the push arrived only after the second call");
    let reply = client.receive().await;
    assert_eq!((reply.route, reply.status), (ROUTE, 8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_route_stays_quick_next_to_a_plugin_that_is_slow_or_loops_or_starts_slowly() {
    // The last of these plugins fails on every third call and then takes long to start again.
    for way in ["slow", "loop", "every-third-call, configure: slow-start"] {
        assert_stays_quick(way, || run(way)).await;
    }
}

/// Returns the 99th percentile of the latency of a healthy route, without and with clients that keep a bad plugin busy.
async fn run(way: &str) -> (Duration, Duration) {
    let gateway = misbehaving("on_packet", way).await;
    let bystander = Bystander::start(&gateway).await;
    time::sleep(Duration::from_secs(1)).await;
    let quiet = percentile(&bystander.finish().await, 99);
    let bystander = Bystander::start(&gateway).await;
    let mut busy = Vec::new();
    for _ in 0..4 {
        let mut client = gateway.client().await;
        busy.push(tokio::spawn(async move {
            loop {
                client.request(ROUTE, b"x").await;
            }
        }));
    }
    time::sleep(Duration::from_secs(1)).await;
    for task in busy {
        task.abort();
    }
    (quiet, percentile(&bystander.finish().await, 99))
}
