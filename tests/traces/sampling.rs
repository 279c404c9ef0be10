//! Which traces are recorded.

use super::{ALL, SPAN, TRACE, connect, request, start, start_on, traceparent};
use gateway_tests::{Client, Collector, Redis};
use std::time::Instant;

/// A trace that no ratio of at most a half records, because its last digits are high.
const UNLUCKY: &str = "4bf92f3577b34da6fffffffffffffff1";

#[tokio::test]
async fn with_a_ratio_of_0_only_clients_that_ask_for_it_are_recorded() {
    let collector = Collector::start().await;
    let gateway = start(&collector, "sample_ratio: 0").await;
    let mut client = connect(&gateway, &[("traceparent", &traceparent(UNLUCKY, "00"))]).await;
    client.send(1, &request(7, TRACE)).await;
    client.assert_alive().await;
    connect(&gateway, &[("traceparent", &traceparent(TRACE, "01"))]).await;
    assert_eq!(collector.only("GET /ws").await.trace(), TRACE);
    collector.only("on-connect chat").await;
    assert_eq!(collector.spans().len(), 2, "{:#?}", collector.spans());
    gateway.metric_is("gateway_trace_spans_exported_total", 2.0).await;
}

#[tokio::test]
async fn every_gateway_decides_alike_by_the_id_of_the_trace() {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    for gateways in 1..=2 {
        let gateway = start_on(&redis, &collector, "sample_ratio: 0.5, max_per_s: 100000").await;
        let mut client = gateway.client().await;
        for _ in 0..20 {
            client.send(1, &request(7, UNLUCKY)).await;
            client.send(1, &request(7, TRACE)).await;
        }
        client.assert_alive().await;
        collector.named("on-packet chat", 20 * gateways).await;
    }
    let spans = collector.named("on-packet chat", 40).await;
    assert_eq!(spans.len(), 40);
    assert!(spans.iter().all(|span| span.trace() == TRACE));
}

#[tokio::test]
async fn a_browser_names_its_trace_in_the_query() {
    let collector = Collector::start().await;
    let gateway = start(&collector, "sample_ratio: 0").await;
    Client::connect_to(gateway.address, &format!("/ws?a=b&traceparent={}", traceparent(TRACE, "01"))).await;
    let span = collector.only("GET /ws").await;
    assert_eq!((&*span.trace(), &*span.parent()), (TRACE, SPAN));
}

#[tokio::test]
async fn a_malformed_traceparent_is_ignored() {
    let collector = Collector::start().await;
    let gateway = start(&collector, ALL).await;
    let zero = traceparent(&"0".repeat(32), "01");
    let upper = traceparent(&TRACE.to_uppercase(), "01");
    for malformed in ["", "x", &zero, &upper, &traceparent(TRACE, "0"), &format!("ff-{TRACE}-{SPAN}-01")] {
        connect(&gateway, &[("traceparent", malformed), ("tracestate", "a=1")]).await.assert_alive().await;
    }
    for span in collector.named("GET /ws", 6).await {
        assert!(span.trace() != TRACE && span.parent().is_empty() && span.span.trace_state.is_empty(), "{span:#?}");
    }
    let twice = traceparent(TRACE, "01");
    connect(&gateway, &[("traceparent", &twice), ("traceparent", &twice)]).await.assert_alive().await;
    assert!(collector.named("GET /ws", 7).await.iter().all(|span| span.trace() != TRACE));
}

#[tokio::test]
async fn a_client_that_asks_all_the_time_is_recorded_up_to_the_limit() {
    let collector = Collector::start().await;
    let gateway = start(&collector, "sample_ratio: 0, max_per_s: 5").await;
    let began = Instant::now();
    for _ in 0..100 {
        connect(&gateway, &[("traceparent", &traceparent(TRACE, "01"))]).await;
    }
    // A second's worth in a burst, and then the rate.
    let most = 5 * (began.elapsed().as_secs() + 2);
    let limited = gateway.metric("gateway_traces_limited_total").await;
    let recorded = 100.0 - limited;
    assert!(recorded >= 5.0 && recorded <= most as f64, "{recorded} of at most {most}");
    assert_eq!(collector.named("GET /ws", recorded as usize).await.len(), recorded as usize);
}
