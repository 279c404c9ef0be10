//! What becomes of spans that the collector does not take.

use super::{ALL, TRACE, request, start, traced};
use gateway_tests::{Answer, Client, Collector, Gateway, Setup, eventually, in_time};
use std::{fs, time::Duration};
use tokio::time::Instant;

/// Serves packets as if there were no collector.
async fn packets_are_served(client: &mut Client) {
    for _ in 0..20 {
        client.assert_alive().await;
    }
}

fn dropped(reason: &str) -> String {
    format!("gateway_trace_spans_dropped_total{{reason=\"{reason}\"}}")
}

async fn some_are_dropped(gateway: &Gateway, reason: &str) {
    let what = format!("dropped spans: {reason}");
    eventually(&what, || async { (gateway.metric(&dropped(reason)).await > 0.0).then_some(()) }).await;
}

#[tokio::test]
async fn spans_are_lost_and_counted_while_the_collector_is_away_and_sent_when_it_is_back() {
    let collector = Collector::start().await;
    let gateway = start(&collector, ALL).await;
    let mut client = gateway.client().await;
    packets_are_served(&mut client).await;
    collector.named("on-packet system", 20).await;
    let address = collector.address;
    collector.stop().await;
    packets_are_served(&mut client).await;
    some_are_dropped(&gateway, "unreachable").await;
    let line = gateway.logged("(traces.endpoint) takes none: it cannot be reached").await;
    assert_eq!(line["level"], "WARN");
    let collector = Collector::start_at(address).await;
    packets_are_served(&mut client).await;
    collector.named("on-packet system", 20).await;
}

#[tokio::test]
async fn a_collector_that_refuses_or_rejects_spans_is_reported() {
    let collector = Collector::start().await;
    let gateway = start(&collector, ALL).await;
    let mut client = gateway.client().await;
    collector.answer(Answer::Status(500));
    packets_are_served(&mut client).await;
    some_are_dropped(&gateway, "refused").await;
    gateway.logged("it answers with HTTP status 500").await;
    collector.answer(Answer::Reject(1));
    packets_are_served(&mut client).await;
    some_are_dropped(&gateway, "rejected").await;
    gateway.logged("the collector of traces rejected spans").await;
}

#[tokio::test]
async fn packets_are_served_and_memory_is_bounded_while_the_collector_hangs() {
    let collector = Collector::start().await;
    let gateway = start(&collector, ALL).await;
    let mut client = gateway.client().await;
    packets_are_served(&mut client).await;
    collector.named("on-packet system", 20).await;
    collector.answer(Answer::Hang);
    let before = gateway.resident_bytes();
    for _ in 0..40 {
        client.send_messages((0..500).map(|seq| [&gateway_tests::header(seq, 3)[..], b"x"].concat())).await;
        for _ in 0..500 {
            assert_eq!(client.receive().await.status, 0);
        }
    }
    some_are_dropped(&gateway, "queue_full").await;
    some_are_dropped(&gateway, "timeout").await;
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
    collector.answer(Answer::Take);
    let taken = collector.spans().len();
    eventually("spans after the hang", || async { (collector.spans().len() > taken).then_some(()) }).await;
}

#[tokio::test]
async fn the_last_spans_are_sent_when_the_gateway_stops() {
    let collector = Collector::start().await;
    let mut gateway = start(&collector, ALL).await;
    let mut client = gateway.client().await;
    packets_are_served(&mut client).await;
    // The gateway waits for no client, so it stops before the spans are due.
    drop(client);
    gateway.signal("TERM").await;
    assert!(gateway.exit().await.success());
    assert_eq!(collector.spans().iter().filter(|span| span.span.name == "on-packet system").count(), 20);
    assert_eq!(collector.spans().iter().filter(|span| span.span.name == "on-disconnect chat").count(), 1);
}

#[tokio::test]
async fn a_collector_that_hangs_does_not_keep_the_gateway_from_stopping() {
    let collector = Collector::start().await;
    let mut gateway = start(&collector, ALL).await;
    collector.answer(Answer::Hang);
    let mut client = gateway.client().await;
    packets_are_served(&mut client).await;
    drop(client);
    let began = Instant::now();
    gateway.signal("TERM").await;
    assert!(gateway.exit().await.success());
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let line = gateway.logged("the collector of traces did not take all spans").await;
    assert!(line["fields"]["spans"].as_u64() >= Some(21), "{line}");
}

#[tokio::test]
async fn headers_of_a_file_are_sent_with_the_spans() {
    let (collector, folder) = (Collector::start().await, tempfile::tempdir().unwrap());
    let file = folder.path().join("headers");
    fs::write(&file, "Authorization: Bearer secret\nX-Tenant: 7\n").unwrap();
    let keys = format!("{ALL}, service_name: edge, headers_file: {file:?}");
    let gateway = start(&collector, &keys).await;
    let mut client = gateway.client().await;
    client.send(1, &request(7, TRACE)).await;
    assert_eq!(collector.only("on-packet chat").await.resource("service.name"), "edge");
    let head = collector.heads().remove(0);
    for line in ["post /v1/traces http/1.1", "authorization: bearer secret", "x-tenant: 7"] {
        assert!(head.lines().any(|found| found == line), "{head}");
    }
    assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
}

#[tokio::test]
async fn gateway_check_asks_whether_the_collector_takes_spans() {
    let collector = Collector::start().await;
    let gateway = Gateway::start(traced(Setup::default(), &collector, ALL)).await;
    let check = async || {
        let mut command = Gateway::command(None);
        command.args(["check", "--config"]).arg(gateway.config()).current_dir(gateway.plugins().parent().unwrap());
        let output = in_time("the end of `gateway check`", command.output()).await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(!check().await.contains("traces"), "{}", check().await);
    collector.answer(Answer::Status(404));
    let hint = "warning: traces.endpoint: the collector takes no spans: it answers with HTTP status 404: \
                traces.endpoint has to be without the path v1/traces, and of a collector's OTLP over HTTP: start it, or \
                correct the URL\n";
    assert!(check().await.contains(hint), "{}", check().await);
    collector.stop().await;
    assert!(check().await.contains("the collector takes no spans: it cannot be reached"), "{}", check().await);
}
