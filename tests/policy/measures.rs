//! Tests of the metrics that a plugin has of its own.

use crate::{ROUTE, ask, connect, generation_is, setup, start};
use gateway_tests::{Gateway, probe_as, put};

/// Returns the lines about the plugin's own metrics.
async fn reported(gateway: &Gateway) -> Vec<String> {
    let (_, text) = gateway.get("/metrics").await;
    text.lines().filter(|line| line.contains("gateway_custom_")).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_metrics_of_a_plugin_are_reported_with_what_it_measures() {
    let gateway = start().await;
    let mut client = connect(&gateway, "").await;
    let script = "measure 0 2; measure 0 0.5; measure 1 7; measure 1 -3; measure 2 0.001; measure 2 5; measure 2 20000";
    ask(&mut client, script).await;
    let expected = r#"# HELP gateway_custom_probe_events Events that a test has counted.
# TYPE gateway_custom_probe_events counter
gateway_custom_probe_events_total 2.5
# HELP gateway_custom_probe_level A number that a test has set.
# TYPE gateway_custom_probe_level gauge
gateway_custom_probe_level -3.0
# HELP gateway_custom_probe_delay Numbers that a test has observed.
# TYPE gateway_custom_probe_delay histogram
gateway_custom_probe_delay_sum 20005.001
gateway_custom_probe_delay_count 3
gateway_custom_probe_delay_bucket{le="0.001"} 1
gateway_custom_probe_delay_bucket{le="0.01"} 1
gateway_custom_probe_delay_bucket{le="0.1"} 1
gateway_custom_probe_delay_bucket{le="1.0"} 1
gateway_custom_probe_delay_bucket{le="10.0"} 2
gateway_custom_probe_delay_bucket{le="100.0"} 2
gateway_custom_probe_delay_bucket{le="1000.0"} 2
gateway_custom_probe_delay_bucket{le="10000.0"} 2
gateway_custom_probe_delay_bucket{le="+Inf"} 3"#;
    assert_eq!(reported(&gateway).await.join("\n"), expected);
}

#[tokio::test]
async fn a_measurement_that_breaks_a_rule_is_refused_with_the_whole_call() {
    let gateway = start().await;
    let mut client = connect(&gateway, "").await;
    ask(&mut client, "measure 1 2").await;
    for script in ["measure 3 1", "measure 0 -1", "measure 1 NaN", "measure 2 inf"] {
        let reply = client.request(ROUTE, format!("measure 1 5; {script}").as_bytes()).await;
        assert_eq!((reply.status, reply.text()), (8, "the plugin failed"), "{script}");
    }
    gateway.logged("it changes metric 3, and its manifest has 3").await;
    gateway.metric_is("gateway_custom_probe_level", 2.0).await;
    gateway.metric_is("gateway_plugin_calls_total{plugin=\"probe\",outcome=\"invalid\"}", 4.0).await;
}

#[tokio::test]
async fn metrics_keep_their_values_over_a_reload_and_a_new_version() {
    let gateway = start().await;
    let mut client = connect(&gateway, "").await;
    ask(&mut client, "measure 0 2; measure 1 4").await;
    gateway.reconfigure(&setup("call_timeout_ms: 30"));
    generation_is(&gateway, 2.0).await;
    ask(&mut client, "measure 0 1").await;
    put(&gateway.plugin("probe"), &probe_as("probe", 1, true));
    generation_is(&gateway, 3.0).await;
    ask(&mut client, "measure 0 1").await;
    gateway.metric_is("gateway_custom_probe_events_total", 4.0).await;
    gateway.metric_is("gateway_custom_probe_level", 4.0).await;
}
