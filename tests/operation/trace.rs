//! Tests of the tracing spans for plugin calls, which are written only at the level `trace`.

use gateway_tests::{Client, Gateway, Setup, chat_request, greeter};
use serde_json::{Value, json};

async fn start(level: &'static str) -> Gateway {
    let files = vec![("guest.wasm", greeter("guest", "7", &[2]))];
    let env = vec![("RUST_LOG", level)];
    Gateway::start(Setup { plugins: vec!["chat", "demo-chat"], files, env, ..Setup::default() }).await
}

/// Calls the plugins in every way, and waits until the last call has ended.
async fn calls(gateway: &Gateway) -> Client {
    let mut client = gateway.client().await;
    assert_eq!(client.request(2, b"hello").await.status, 0);
    assert_eq!(client.request(2, b"trap").await.status, 8);
    client.send(1, &chat_request("mmo", 1, "@1 hello")).await;
    client.receive().await;
    client
}

/// Returns the span of the line that reports this call's end, without its time.
async fn ended(gateway: &Gateway, plugin: &str, export: &str, outcome: &str) -> Value {
    let called = |line: &Value| line["fields"]["message"] == "plugin called" && line["level"] == "TRACE";
    let wanted = |line: &Value| {
        let span = &line["span"];
        span["plugin"] == plugin && span["export"] == export && span["outcome"] == outcome
    };
    let what = format!("the end of {plugin}'s {export}: {outcome}");
    let line = gateway_tests::eventually(&what, || async {
        gateway.log_lines().into_iter().find(|line| called(line) && wanted(line))
    });
    let mut span = line.await["span"].take();
    let took = span.as_object_mut().unwrap().remove("took").unwrap();
    assert!(took.as_str().unwrap().ends_with('s'), "{took}");
    span
}

#[tokio::test]
async fn with_gateway_at_trace_each_call_is_a_span_with_its_outcome_and_its_time() {
    let gateway = start("gateway=trace,plugin=info").await;
    let client = calls(&gateway).await;
    let session = client.welcome.session_id;
    let packet = |seq: u32, outcome: &str| {
        json!({ "name": "call", "plugin": "guest", "version": "7", "export": "on-packet", "route": 2, "seq": seq,
            "session": session, "outcome": outcome })
    };
    assert_eq!(ended(&gateway, "guest", "on-packet", "ok").await, packet(1, "ok"));
    assert_eq!(ended(&gateway, "guest", "on-packet", "trap").await, packet(2, "trap"));
    let message = ended(&gateway, "chat", "on-message", "ok").await;
    assert_eq!((&message["topic"], &message["session"]), (&json!("broadcast"), &Value::Null));
    ended(&gateway, "guest", "configure", "ok").await;
    let described = gateway.logged("\"export\":\"describe\"").await;
    assert_eq!((&described["span"]["outcome"], &described["span"]["plugin"]), (&json!("ok"), &Value::Null));

    // A log line of the plugin itself is written within the span of its call, which has no outcome yet.
    let line = gateway.logged("as it was told to").await;
    assert_eq!((&line["target"], &line["span"]["seq"]), (&json!("plugin"), &json!(2)));
    assert_eq!((&line["span"]["session"], &line["span"]["outcome"]), (&json!(session), &Value::Null));
}

#[tokio::test]
async fn at_other_levels_there_are_no_spans() {
    for level in ["info", "gateway=debug,plugin=debug"] {
        let gateway = start(level).await;
        calls(&gateway).await;
        gateway.logged("as it was told to").await;
        for line in gateway.log_lines() {
            assert!(line["span"].is_null() && line["level"] != "TRACE", "{line}");
        }
    }
}
