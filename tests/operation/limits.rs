//! Tests of the limits `call_timeout_ms` and `memory_mb` of a plugin. A call that exceeds a limit or traps fails, and
//! nothing else fails.

use gateway_tests::{Gateway, Setup, greeter};

/// The limits that the tests set. They are far from the defaults.
const LIMITS: &str = "{ call_timeout_ms: 333, memory_mb: 16 }";

/// Starts a gateway with system, and with a plugin `guest` on route 2 that has these settings.
async fn start(settings: &str) -> Gateway {
    let files = vec![("guest.wasm", greeter("guest", "1", &[2]))];
    Gateway::start(Setup { yaml: yaml(settings), plugins: vec!["system"], files, ..Setup::default() }).await
}

fn yaml(settings: &str) -> String {
    format!("plugins: {{ directory: plugins, settings: {{ guest: {settings} }} }}")
}

/// Asserts that the packet fails with status 8, is counted under `outcome` and is logged. The next packets on the same
/// connection are served.
async fn fails(settings: &str, packet: &[u8], outcome: &str, because: &str) {
    let gateway = start(settings).await;
    let mut client = gateway.client().await;
    for count in [1.0, 2.0] {
        let reply = client.request(2, packet).await;
        assert_eq!((reply.status, reply.text()), (8, "the plugin failed"));
        gateway
            .metric_is(&format!("gateway_plugin_calls_total{{plugin=\"guest\",outcome=\"{outcome}\"}}"), count)
            .await;
        assert_eq!(client.request(2, b"hello").await.text(), "1");
        client.assert_alive().await;
    }
    gateway.metric_is("gateway_routing_errors_total{reason=\"internal\"}", 2.0).await;
    let line = gateway.logged("plugin call failed").await;
    assert_eq!((&line["level"], &line["fields"]["plugin"]), (&"ERROR".into(), &"guest".into()));
    let message = line["fields"]["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("plugin call failed: {because}")), "{message}");
}

#[tokio::test]
async fn a_call_that_traps_fails_with_status_8_and_the_next_is_served() {
    fails("{}", b"trap", "trap", "").await;
}

#[tokio::test]
async fn a_call_that_runs_past_call_timeout_ms_fails_with_status_8_and_the_next_is_served() {
    fails(LIMITS, b"loop", "deadline", "it ran for more than 333 ms (`call_timeout_ms`)").await;
}

#[tokio::test]
async fn call_timeout_ms_is_20_by_default() {
    fails("{}", b"loop", "deadline", "it ran for more than 20 ms (`call_timeout_ms`)").await;
}

#[tokio::test]
async fn a_call_that_wants_more_than_memory_mb_fails_with_status_8_and_the_next_is_served() {
    fails(LIMITS, b"grow", "memory", "it wanted more than 16 MiB of memory (`memory_mb`)").await;
}

#[tokio::test]
async fn memory_mb_is_64_by_default_and_changes_when_the_file_is_saved() {
    let gateway = start("{ call_timeout_ms: 10000 }").await;
    let mut client = gateway.client().await;
    assert_eq!(client.request(2, b"grow").await.text(), "33554432");
    gateway.reconfigure(&Setup { yaml: yaml("{ call_timeout_ms: 10000, memory_mb: 16 }"), ..Setup::default() });
    gateway.metric_is("gateway_plugin_generation{plugin=\"guest\"}", 2.0).await;
    assert_eq!(client.request(2, b"grow").await.status, 8);
}

#[tokio::test]
async fn output_of_a_plugin_that_traps_is_logged_under_its_name() {
    let gateway = start("{}").await;
    assert_eq!(gateway.client().await.request(2, b"trap").await.status, 8);
    let line = gateway.logged("as it was told to").await;
    assert_eq!((&line["target"], &line["fields"]["plugin"]), (&"plugin".into(), &"guest".into()));
}
