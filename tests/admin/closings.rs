//! Tests of operators and backends that end sessions, on one gateway and on two.

use super::{is_closed, post};
use gateway_tests::{Gateway, Redis, Setup, connect_to_redis, root};
use redis::AsyncCommands;
use serde_json::json;
use std::fs;

const CLOSED: &str = "gateway_disconnections_total{reason=\"api\"}";
const REJECTED: &str = "gateway_routing_errors_total{reason=\"message_rejected\"}";
const TOPIC: &str = "gateway:host";

/// Starts two gateways with the plugin `control` on one Redis.
async fn two(redis: &Redis) -> [Gateway; 2] {
    let start = || async {
        let plugins = vec!["chat", "system", "control"];
        let gateway = Gateway::start(Setup { plugins, ..Setup::redis(redis) }).await;
        gateway.metric_is("gateway_bus_connected", 1.0).await;
        gateway
    };
    let gateways = [start().await, start().await];
    redis.subscribers_are(TOPIC, 2).await;
    gateways
}

#[tokio::test]
async fn one_call_ends_the_sessions_of_a_user_on_both_gateways() {
    let redis = Redis::start().await;
    let gateways = two(&redis).await;
    let mut banned = Vec::new();
    for gateway in &gateways {
        banned.push(gateway.client_of(7).await);
    }
    banned.push(gateways[0].client_of(7).await);
    let mut other = gateways[1].client_of(8).await;
    let answer = post(&gateways[0], "/api/users/7/close", r#"{"code": 4003, "reason": "banned"}"#).await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "closed": 2, "published": true })));
    for client in banned {
        is_closed(client, 4003, "banned").await;
    }
    other.assert_alive().await;
    gateways[0].metric_is(CLOSED, 2.0).await;
    gateways[1].metric_is(CLOSED, 1.0).await;
    gateways[1].logged("sessions closed by an operator").await;
    // The gateway has heard its own message, and did not close anything a second time.
    assert!(!gateways[0].log_lines().iter().any(|line| line.to_string().contains("sessions closed by an operator")));
}

#[tokio::test]
async fn a_session_of_another_gateway_ends_by_its_id() {
    let redis = Redis::start().await;
    let gateways = two(&redis).await;
    let (client, mut same_user) = (gateways[1].client_of(7).await, gateways[1].client_of(7).await);
    let path = format!("/api/sessions/{}/close", client.welcome.session_id);
    let answer = post(&gateways[0], &path, "").await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "closed": 0, "published": true })));
    is_closed(client, 4002, "").await;
    same_user.assert_alive().await;
    gateways[1].metric_is(CLOSED, 1.0).await;
    assert_eq!(gateways[0].metric(CLOSED).await, 0.0);
}

#[tokio::test]
async fn one_message_on_the_control_topic_ends_the_sessions_of_a_user_on_both_gateways() {
    let redis = Redis::start().await;
    let gateways = two(&redis).await;
    redis.subscribers_are("gateway:control", 2).await;
    let banned = [gateways[0].client_of(7).await, gateways[1].client_of(7).await];
    let mut other = gateways[1].client_of(8).await;
    let message = br#"{"close": {"user": 7, "code": 4003, "reason": "banned"}}"#;
    assert_eq!(redis.publish("gateway:control", message).await, 2);
    for client in banned {
        is_closed(client, 4003, "banned").await;
    }
    other.assert_alive().await;
    for gateway in &gateways {
        gateway.metric_is("gateway_disconnections_total{reason=\"policy\"}", 1.0).await;
        assert_eq!(gateway.metric(CLOSED).await, 0.0);
    }
}

#[tokio::test]
async fn on_the_embedded_bus_sessions_end_without_any_plugin() {
    let gateway = Gateway::start(Setup { plugins: Vec::new(), ..Setup::default() }).await;
    let client = gateway.client().await;
    let path = format!("/api/sessions/{}/close", client.welcome.session_id);
    let answer = post(&gateway, &path, r#"{"code": 1000, "reason": "bye"}"#).await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "closed": 1, "published": true })));
    is_closed(client, 1000, "bye").await;
    gateway.metric_is(CLOSED, 1.0).await;
    assert_eq!(gateway.metric("gateway_bus_unheard_total").await, 0.0);
}

#[tokio::test]
async fn without_the_bus_the_sessions_here_end_and_the_answer_says_that_the_others_do_not_know() {
    let mut redis = Redis::start().await;
    let gateway = Gateway::start(Setup::redis(&redis)).await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    let client = gateway.client_of(7).await;
    redis.kill().await;
    gateway.metric_is("gateway_bus_connected", 0.0).await;
    let answer = post(&gateway, "/api/users/7/close", "{}").await;
    let report = answer.json();
    assert_eq!((answer.status, &report["closed"], &report["published"]), (503, &json!(1), &json!(false)));
    let error = report["error"].as_str().unwrap();
    assert!(error.starts_with("the bus is not connected: "), "{error}");
    is_closed(client, 4002, "").await;
}

#[tokio::test]
async fn a_redis_that_hangs_confirms_nothing() {
    let redis = Redis::start().await;
    let gateway = Gateway::start(Setup::redis_with(&redis, "timeout_ms: 60000")).await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    redis.signal("STOP").await;
    let answer = post(&gateway, "/api/users/7/close", "{}").await;
    let why = "the bus has not confirmed the message within 2 s, it may or may not pass it on";
    let report = json!({ "closed": 0, "published": false, "error": why });
    assert_eq!((answer.status, answer.json()), (503, report));
    redis.signal("CONT").await;
}

#[tokio::test]
async fn an_order_that_is_not_valid_ends_nothing() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut client = gateway.client_of(7).await;
    let too_long = "x".repeat(124);
    for (body, why) in [
        (r#"{"code": 1001}"#, "code: 1001 is neither 1000 nor within 3000 to 4999"),
        (r#"{"code": 5000}"#, "code: 5000 is neither 1000 nor within 3000 to 4999"),
        (&format!(r#"{{"reason": "{too_long}"}}"#), "reason: 124 bytes, and 123 are the most"),
        (r#"{"code": 70000}"#, "invalid value: integer `70000`, expected u16 at line 1 column 14"),
        (r#"{"reasons": ""}"#, "unknown field `reasons`, expected `code` or `reason` at line 1 column 10"),
        ("[]x", "trailing characters at line 1 column 3"),
        ("{", "EOF while parsing an object at line 1 column 1"),
    ] {
        post(&gateway, "/api/users/7/close", body).await.is_error(400, why);
    }
    for user in ["0", "-7", "x", "9223372036854775808", "%ff"] {
        let answer = post(&gateway, &format!("/api/users/{user}/close"), "{}").await;
        answer.is_error(400, "the id of a user is an integer, 1 or more");
    }
    for session in ["7", "x", "%ff", "01234567-89ab-cdef-0123-456789abcde"] {
        let answer = post(&gateway, &format!("/api/sessions/{session}/close"), "{}").await;
        answer.is_error(400, "the id of a session is a UUID");
    }
    client.assert_alive().await;
    assert_eq!(gateway.metric(CLOSED).await, 0.0);
}

#[tokio::test]
async fn a_message_on_the_host_topic_that_is_not_of_a_gateway_is_counted_and_logged() {
    let redis = Redis::start().await;
    let [gateway, _other] = two(&redis).await;
    let mut client = gateway.client_of(7).await;
    let from = "00000000-0000-0000-0000-000000000001";
    let messages = [
        "".to_owned(),
        "rubbish\u{1b}[31m".to_owned(),
        r#"{"close": {"user": 7}}"#.to_owned(),
        format!(
            r#"{{"from": "{from}", "number": 1, "close": {{"user": 7}}, "notice": {{"code": 1006, "reason": ""}}}}"#
        ),
        format!(r#"{{"from": "{from}", "number": 1, "close": {{"group": 7}}, "notice": {{}}}}"#),
        format!(r#"{{"from": "{from}", "number": -1, "close": {{"user": 7}}, "notice": {{}}}}"#),
        "[".repeat(100_000),
    ];
    for message in &messages {
        assert_eq!(redis.publish(TOPIC, message.as_bytes()).await, 2);
    }
    gateway.metric_is(REJECTED, messages.len() as f64).await;
    gateway
        .logged("bus message refused: only gateways may publish on this topic, or a newer one has sent something new")
        .await;
    client.assert_alive().await;
    // A message of a newer gateway with one more key is understood.
    let newer = format!(r#"{{"from": "{from}", "number": 1, "close": {{"user": 7}}, "notice": {{}}, "why": "x"}}"#);
    redis.publish(TOPIC, newer.as_bytes()).await;
    is_closed(client, 4002, "").await;
}

#[tokio::test]
async fn the_acl_in_the_documentation_lets_only_gateways_use_the_topic_of_the_host() {
    let redis = Redis::start().await;
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let users: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("user ")).collect();
    assert_eq!((users.len(), users[0]), (3, "default off"));
    // This test goes on as the user `default`.
    for user in &users[1..] {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg(user.split_whitespace().collect::<Vec<_>>());
        command.exec_async(&mut redis.connection().await).await.unwrap();
    }
    let address = |user: &str| format!("redis://{user}@127.0.0.1:{}", redis.port);
    let yaml = format!("games: [{{ id: mmo }}]\nredis: {{ addr: \"{}\" }}", address("gateway:SECRET"));
    let gateway = Gateway::start(Setup { yaml, ..Setup::default() }).await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    let client = gateway.client_of(7).await;
    redis.subscribers_are("broadcast:user:7", 1).await;
    let backend = redis::Client::open(address("backend:SECRET2")).unwrap();
    let mut backend = connect_to_redis(&backend).await.unwrap();
    let received: usize = backend.publish("broadcast:user:7", b"").await.unwrap();
    assert_eq!(received, 1);
    let error = backend.publish::<_, _, usize>(TOPIC, b"").await.unwrap_err();
    assert_eq!(error.code(), Some("NOPERM"), "{error}");
    let answer = post(&gateway, "/api/users/7/close", "").await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "closed": 1, "published": true })));
    is_closed(client, 4002, "").await;
}
