//! The spans of a request on its whole way.

use super::{ALL, SPAN, TRACE, connect, request, response, start, start_on, traced, traceparent};
use gateway_tests::{Client, Collector, Gateway, Redis, Setup, chat_request, fourth};
use std::collections::BTreeSet;

/// The kinds of spans in OTLP.
const SERVER: i32 = 2;
const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;

#[tokio::test]
async fn a_request_is_one_trace_from_the_packet_over_the_backend_to_the_delivery() {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    let gateway = start_on(&redis, &collector, ALL).await;
    redis.subscribers_are("broadcast", 1).await;
    let mut backend = redis.subscribe("game:request:mmo").await;
    let of_client = "0af7651916cd43dd8448eb211c80319c";
    let headers = [("traceparent", &*traceparent(of_client, "00")), ("tracestate", "vendor=1")];
    let mut client = connect(&gateway, &headers).await;

    let sent = request(7, TRACE);
    client.send(1, &sent).await;
    let received = backend.next().await;
    assert_eq!(received, sent, "the payload is passed on byte for byte");
    let answer = response(&received);
    redis.publish("broadcast", &answer).await;
    assert_eq!(client.receive().await.payload, answer);

    let handshake = collector.only("GET /ws").await;
    assert_eq!((&*handshake.trace(), &*handshake.parent(), handshake.span.kind), (of_client, SPAN, SERVER));
    assert_eq!(handshake.span.trace_state, "vendor=1");
    let status = handshake.attribute("http.response.status_code");
    assert_eq!((&*status, &*handshake.attribute("session.id")), ("101", &*client.welcome.session_id));
    assert_eq!(handshake.attribute("client.address"), "127.0.0.1");

    let packet = collector.only("on-packet chat").await;
    assert_eq!((&*packet.trace(), &*packet.parent(), packet.span.kind), (TRACE, SPAN, SERVER));
    assert_eq!(packet.links(), [(handshake.trace(), handshake.id())]);
    let attributes = ["gateway.plugin.name", "gateway.plugin.version", "gateway.plugin.generation", "gateway.route"];
    assert_eq!(attributes.map(|key| packet.attribute(key)), ["chat", "0.1.0", "1", "1"]);
    assert_eq!((&*packet.attribute("user.id"), packet.error()), ("7", None));

    let publish = collector.only("publish").await;
    assert_eq!((publish.trace(), publish.parent(), publish.span.kind), (packet.trace(), packet.id(), PRODUCER));
    let attributes = ["messaging.system", "messaging.destination.name", "messaging.message.body.size"];
    assert_eq!(attributes.map(|key| publish.attribute(key)), ["redis", "game:request:mmo", &*sent.len().to_string()]);
    assert_eq!(publish.error(), None);

    let message = collector.only("on-message chat").await;
    assert_eq!((&*message.trace(), &*message.parent(), message.span.kind), (TRACE, SPAN, CONSUMER));
    assert_eq!(message.attribute("messaging.destination.name"), "broadcast");
    let delivery = collector.only("deliver").await;
    assert_eq!((delivery.trace(), delivery.parent(), delivery.span.kind), (message.trace(), message.id(), PRODUCER));
    let attributes = ["gateway.receivers", "gateway.dropped", "user.id"];
    assert_eq!(attributes.map(|key| delivery.attribute(key)), ["1", "0", "7"]);

    for span in [&packet, &publish, &message, &delivery] {
        assert_eq!(span.resource("service.name"), "gateway");
        assert!(span.span.start_time_unix_nano <= span.span.end_time_unix_nano);
    }
    assert!(packet.span.start_time_unix_nano <= publish.span.start_time_unix_nano);
    assert!(message.span.start_time_unix_nano >= publish.span.start_time_unix_nano);
}

#[tokio::test]
async fn two_gateways_record_the_same_trace() {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    let gateways = [start_on(&redis, &collector, ALL).await, start_on(&redis, &collector, ALL).await];
    redis.subscribers_are("broadcast", 2).await;
    let mut backend = redis.subscribe("game:request:mmo").await;
    let mut client = gateways[0].client().await;
    client.send(1, &request(7, TRACE)).await;
    let answer = response(&backend.next().await);
    redis.publish("broadcast", &answer).await;
    assert_eq!(client.receive().await.payload, answer);

    let deliveries = collector.named("deliver", 2).await;
    let messages = collector.named("on-message chat", 2).await;
    let processes = |spans: &[gateway_tests::TracedSpan]| -> BTreeSet<_> {
        spans.iter().map(|span| span.resource("service.instance.id")).collect()
    };
    assert_eq!((processes(&deliveries).len(), processes(&messages).len()), (2, 2));
    assert!(deliveries.iter().chain(&messages).all(|span| span.trace() == TRACE));
    let mut receivers: Vec<_> = deliveries.iter().map(|span| span.attribute("gateway.receivers")).collect();
    receivers.sort();
    assert_eq!(receivers, ["0", "1"]);
}

#[tokio::test]
async fn a_publish_that_reaches_nobody_has_an_error_on_either_bus() {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    for (gateway, system) in
        [(start_on(&redis, &collector, ALL).await, "redis"), (start(&collector, ALL).await, "embedded")]
    {
        let mut client = gateway.client().await;
        client.send(1, &request(7, TRACE)).await;
        assert_eq!(client.receive_any().await.status, 5);
        let spans = collector.named("publish", if system == "redis" { 1 } else { 2 }).await;
        let span = spans.last().unwrap();
        assert_eq!((&*span.attribute("messaging.system"), span.error()), (system, Some("unheard")));
        assert_eq!(span.attribute("error.type"), "unheard");
    }
}

#[tokio::test]
async fn a_publish_to_a_stream_has_a_span() {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    let setup = Setup::redis_with(&redis, "streams: [\"game:request:*\"], timeout_ms: 30000");
    let gateway = Gateway::start(traced(setup, &collector, ALL)).await;
    let mut client = gateway.client().await;
    client.send(1, &request(7, TRACE)).await;
    let span = collector.only("publish").await;
    assert_eq!((&*span.trace(), span.error()), (TRACE, None));
}

#[tokio::test]
async fn a_publish_has_a_span_on_the_embedded_bus_whose_backend_is_a_plugin() {
    let collector = Collector::start().await;
    let setup = Setup { plugins: vec!["chat", "demo-chat"], ..Setup::default() };
    let gateway = Gateway::start(traced(setup, &collector, ALL)).await;
    let mut client = gateway.client().await;
    client.send(1, &request(7, TRACE)).await;
    assert_eq!(client.receive().await.status, 0);
    // The plugin demo-chat copies the trace into its answer, but joins no trace itself.
    let message = collector.only("on-message chat").await;
    assert_eq!((&*message.trace(), &*message.parent()), (TRACE, SPAN));
    assert_ne!(collector.only("on-message demo-chat").await.trace(), TRACE);
    let publishes = collector.named("publish", 2).await;
    assert!(publishes.iter().all(|span| span.error().is_none()), "{publishes:#?}");
}

#[tokio::test]
async fn a_call_that_is_refused_has_an_error() {
    let collector = Collector::start().await;
    let gateway = start(&collector, ALL).await;
    let mut client = gateway.client().await;
    assert_eq!(client.request(1, &chat_request("other", 7, "hi")).await.status, 4);
    let span = collector.only("on-packet chat").await;
    assert_eq!((&*span.attribute("gateway.status"), &*span.attribute("error.type")), ("4", "rejected"));
    assert_eq!(span.error(), Some("ChatRequest.base.game_id is no game of this gateway"));
    assert!(collector.spans().iter().all(|span| span.span.name != "publish"));
}

#[tokio::test]
async fn a_handshake_that_is_refused_has_its_status_and_reason_and_is_no_error_of_the_server() {
    let collector = Collector::start().await;
    let yaml = "games: [{ id: mmo }]\nlimits: { sessions_per_ip: 1 }".to_owned();
    let gateway = Gateway::start(traced(Setup { yaml, ..Setup::default() }, &collector, ALL)).await;
    let _first = gateway.client().await;
    assert!(Client::handshake(gateway.address, "/ws").await.is_err());
    let handshakes = collector.named("GET /ws", 2).await;
    let statuses = handshakes.iter().map(|span| (span.attribute("http.response.status_code"), span.error()));
    let expected = [("101".to_owned(), None), ("429".to_owned(), None)];
    assert_eq!(statuses.collect::<Vec<_>>(), expected);
    assert_eq!(handshakes[1].attribute("error.type"), "sessions_per_ip");
}

#[tokio::test]
async fn a_packet_that_names_no_trace_has_one_of_its_own_with_a_link_to_the_handshake() {
    let collector = Collector::start().await;
    let gateway = start(&collector, ALL).await;
    let mut client = connect(&gateway, &[("traceparent", &traceparent(TRACE, "01"))]).await;
    client.assert_alive().await;
    client.assert_alive().await;
    let handshake = collector.only("GET /ws").await;
    assert_eq!(handshake.trace(), TRACE);
    // The plugins that are asked are a part of the handshake.
    let asked = collector.only("on-connect chat").await;
    assert_eq!((asked.trace(), asked.parent(), asked.links()), (handshake.trace(), handshake.id(), Vec::new()));
    let packets = collector.named("on-packet system", 2).await;
    for packet in &packets {
        assert_eq!((packet.parent(), packet.links()), (String::new(), vec![(handshake.trace(), handshake.id())]));
    }
    let traces: BTreeSet<_> = packets.iter().map(gateway_tests::TracedSpan::trace).collect();
    assert_eq!(traces.len(), 2);
}

#[tokio::test]
async fn a_plugin_names_one_trace_for_a_call_and_sees_its_span() {
    let collector = Collector::start().await;
    let files = vec![("fourth.wasm", fourth())];
    let setup = Setup { files, ..Setup::default() };
    let gateway = Gateway::start(traced(setup, &collector, "sample_ratio: 0")).await;
    let mut client = gateway.client().await;
    // The plugin joins the trace 0, which is invalid, and then 2 and 3.
    assert_eq!(client.request(0x7a, b"join").await.text(), "Some((0, 2, true))");
    let span = collector.only("on-packet fourth").await;
    assert_eq!((&*span.trace(), &*span.parent()), (&*format!("{:032x}", 2), &*format!("{:016x}", 4)));
    assert_eq!(client.request(0x7a, b"reply").await.status, 256);
    assert_eq!(client.request(0x7a, b"join").await.text(), "Some((0, 2, true))");
    assert_eq!(collector.named("on-packet fourth", 2).await.len(), 2);
}
