//! Tests of the action `end`: a plugin ends sessions after the messages that are queued for them.

use crate::{ROUTE, ask, assert_push, connect, setup, start};
use gateway_tests::{Client, Gateway, Setup};

const ENDED: &str = "gateway_disconnections_total{reason=\"policy\"}";

/// Waits until the client is told that its session ends.
async fn assert_ended(mut client: Client, code: u16, reason: &str) {
    let frame = client.closed().await.expect("a close code");
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (code, reason));
}

#[tokio::test]
async fn every_session_of_a_user_ends_and_no_other() {
    let gateway = start().await;
    let banned = [connect(&gateway, "user=7").await, connect(&gateway, "user=7").await];
    let mut other = connect(&gateway, "user=8").await;
    assert_eq!(ask(&mut other, "end user:7 4002 banned for good; end user:9 4002 nobody").await, "");
    for client in banned {
        assert_ended(client, 4002, "banned for good").await;
    }
    other.assert_alive().await;
    gateway.metric_is(ENDED, 2.0).await;
}

#[tokio::test]
async fn a_session_ends_after_the_messages_that_are_queued_for_it() {
    let gateway = start().await;
    let (mut client, mut other) = (connect(&gateway, "").await, connect(&gateway, "").await);
    let id = client.welcome.session_id.clone();
    ask(&mut other, &format!("repeat 100 deliver session:{id} always #; end session:{id} 3000 over")).await;
    for seq in 1..=100 {
        assert_push(&mut client, seq, &(seq - 1).to_string()).await;
    }
    assert_ended(client, 3000, "over").await;
    // It is no error that the session has ended.
    assert_eq!(ask(&mut other, &format!("end session:{id} 3000 over; say done")).await, "done");
    gateway.metric_is(ENDED, 1.0).await;
}

#[tokio::test]
async fn the_members_of_a_group_end_with_the_first_code_that_they_are_given() {
    let gateway = start().await;
    let member = connect(&gateway, "do=join+5;join+6").await;
    let mut other = connect(&gateway, "do=join+6").await;
    ask(&mut other, "end group:5 4999 first; end group:5 1000 second; leave 6; end group:6 1000 third").await;
    assert_ended(member, 4999, "first").await;
    other.assert_alive().await;
    gateway.metric_is(ENDED, 1.0).await;
}

#[tokio::test]
async fn a_session_gets_the_reply_to_the_packet_that_ends_it() {
    let gateway = start().await;
    let mut client = connect(&gateway, "").await;
    assert_eq!(ask(&mut client, "say bye; end me 1000 ").await, "bye");
    assert_ended(client, 1000, "").await;
}

#[tokio::test]
async fn a_session_that_the_plugin_ends_at_connect_gets_its_welcome_and_the_code() {
    let gateway = start().await;
    let mut client = connect(&gateway, "do=deliver+me+always+first;end+me+4001+not+now").await;
    assert_push(&mut client, 1, "first").await;
    assert_ended(client, 4001, "not now").await;
}

#[tokio::test]
async fn no_plugin_can_publish_on_the_topic_of_the_host() {
    let gateway = start().await;
    let mut client = connect(&gateway, "user=7").await;
    let script = r#"publish gateway:host {"close": {"user": 7}}"#;
    assert_eq!(client.request(ROUTE, script.as_bytes()).await.status, 8);
    gateway.metric_is("gateway_plugin_calls_total{plugin=\"probe\",outcome=\"invalid\"}", 1.0).await;
    let line = gateway.logged("it publishes on \\\"gateway:host\\\"").await;
    assert!(line.to_string().contains("does not begin with gateway:host"), "{line}");
    assert_eq!(client.request(ROUTE, b"listen gateway:host").await.status, 8);
    client.assert_alive().await;
}

#[tokio::test]
async fn the_plugin_control_ends_sessions_when_a_backend_says_so() {
    let plugins = vec!["chat", "system", "control"];
    let gateway = Gateway::start(Setup { plugins, ..setup("") }).await;
    let banned = [connect(&gateway, "user=7").await, connect(&gateway, "").await];
    let mut other = connect(&gateway, "user=8").await;
    let by_user = r#"{"close": {"user": 7, "code": 4003, "reason": "banned"}}"#;
    let by_session = format!(r#"{{"close": {{"session": "{}"}}}}"#, banned[1].welcome.session_id);
    for message in [by_user, &by_session] {
        ask(&mut other, &format!("publish gateway:control {message}")).await;
    }
    for (client, (code, reason)) in banned.into_iter().zip([(4003, "banned"), (4002, "")]) {
        assert_ended(client, code, reason).await;
    }
    other.assert_alive().await;
    assert_eq!(other.request(ROUTE, b"say $user").await.text(), "8");
}
