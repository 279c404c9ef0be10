//! Tests of plugins that fail when they are asked at connect. A gatekeeper lets nobody in, and sessions that have begun
//! and the routes of other plugins go on.

use crate::{ROUTE, ask, connect, refused, setup, start};
use gateway_tests::{Gateway, Setup, eventually, probe, probe_as, put};
use std::fs;

const REFUSED: &str = "gateway_handshakes_refused_total{reason=\"plugin_unavailable\"}";
const QUARANTINED: &str = "gateway_plugin_quarantined{plugin=\"probe\"}";

async fn lets_nobody_in(failure: &str, outcome: &str) {
    let gateway = start().await;
    let mut client = connect(&gateway, "tag=3").await;
    for _ in 0..10 {
        let response = refused(&gateway, failure).await;
        assert_eq!((response.status, &*response.body), (503, "the plugin failed"));
        assert_eq!(response.header("Retry-After"), Some("1"));
        assert_eq!(ask(&mut client, "say $tag").await, "3");
        client.assert_alive().await;
    }
    gateway.metric_is(REFUSED, 10.0).await;
    let calls = format!("gateway_plugin_calls_total{{plugin=\"probe\",outcome=\"{outcome}\"}}");
    gateway.metric_is(&calls, 10.0).await;
    let line = gateway.logged("session refused: the plugin that has to admit it cannot be asked").await;
    assert_eq!((&line["level"], &line["fields"]["plugin"]), (&"ERROR".into(), &"probe".into()));
    // All failures come from one address, so the plugin is not in quarantine.
    gateway.metric_is(QUARANTINED, 0.0).await;
    connect(&gateway, "").await.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_gatekeeper_traps_at_connect_nobody_gets_in_and_sessions_go_on() {
    lets_nobody_in("trap", "trap").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_gatekeeper_loops_at_connect_nobody_gets_in_and_sessions_go_on() {
    lets_nobody_in("loop", "deadline").await;
}

#[tokio::test]
async fn a_gatekeeper_in_quarantine_lets_nobody_in() {
    let gateway = start().await;
    // Five sessions whose packets trap bring the plugin into quarantine.
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(connect(&gateway, "").await);
    }
    for client in &mut clients {
        assert_eq!(client.request(ROUTE, b"trap").await.status, 8);
    }
    gateway.metric_is(QUARANTINED, 1.0).await;
    let response = refused(&gateway, "").await;
    assert_eq!((response.status, &*response.body), (503, "the plugin is in quarantine: it keeps failing"));
    for client in &mut clients {
        client.assert_alive().await;
    }
}

#[tokio::test]
async fn sessions_begin_without_a_plugin_that_is_no_gatekeeper() {
    let files = vec![("probe.wasm", probe_as("probe", 0, false))];
    let gateway = Gateway::start(Setup { files, ..setup("") }).await;
    let mut client = connect(&gateway, "tag=3&trap").await;
    assert_eq!(ask(&mut client, "say $tag").await, "0");
    let line = gateway.logged("a session begins without the plugin's `on-connect`").await;
    assert_eq!((&line["level"], &line["fields"]["plugin"]), (&"WARN".into(), &"probe".into()));
    gateway.metric_is(REFUSED, 0.0).await;
    // It still decides if it can be asked.
    assert_eq!(refused(&gateway, "deny=403").await.status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_begins_while_a_required_plugin_does_not_serve() {
    let required = |names: &str| Setup {
        yaml: format!("plugins: {{ directory: plugins, required: [{names}] }}"),
        files: Vec::new(),
        ..setup("")
    };
    let gateway = Gateway::start(required("probe")).await;
    let answers_503 = async || {
        let response = refused(&gateway, "").await;
        let text = "the plugin probe does not serve, and no session begins without it";
        assert_eq!((response.status, &*response.body), (503, text));
        let (status, report) = gateway.get("/readyz").await;
        assert!(status == 503 && report.contains("the plugin probe does not serve (plugins.required)"), "{report}");
    };
    answers_503().await;
    put(&gateway.plugin("probe"), &probe());
    gateway.metric_is("gateway_plugin_generation{plugin=\"probe\"}", 1.0).await;
    let mut client = connect(&gateway, "tag=3").await;
    assert_eq!(gateway.get("/readyz").await.0, 200);
    assert_eq!(refused(&gateway, "deny=403").await.status, 403);

    // Sessions that have begun go on after the file is gone.
    fs::remove_file(gateway.plugin("probe")).unwrap();
    gateway.logged("\"message\":\"plugin removed\",\"plugin\":\"probe\"").await;
    // The log line comes just before the plugin is taken from its route.
    client.answers_until(ROUTE, 3, "no plugin serves route 0x70").await;
    answers_503().await;
    client.assert_alive().await;
    gateway.metric_is(REFUSED, 2.0).await;

    // The key takes effect without a restart.
    gateway.reconfigure(&required(""));
    eventually("a session begins", || async { (gateway.get("/readyz").await.0 == 200).then_some(()) }).await;
    connect(&gateway, "").await.assert_alive().await;
}
