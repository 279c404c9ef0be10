//! Tests of `on-connect`: what a plugin gets, and what its admission or denial leads to.

use crate::{
    ROUTE, ZEBRA, ask, ask_on, ask_until, assert_push, connect, refused, sessions_are, setup, start, start_both,
};
use gateway_tests::{
    Client, Gateway, Packet, Setup,
    wire::{UPGRADE, Wire},
};
use std::time::{SystemTime, UNIX_EPOCH};

const DENIED: &str = "gateway_handshakes_refused_total{reason=\"denied_by_plugin\"}";

#[tokio::test]
async fn an_admission_sets_user_tag_and_attributes_and_its_actions_follow_the_welcome() {
    let gateway = start().await;
    let mut first =
        connect(&gateway, "user=7&tag=3&attribute=name:anna&attribute=empty:&do=join+5;deliver+me+always+hello").await;
    assert_push(&mut first, 1, "hello").await;
    assert_eq!(ask(&mut first, "say $session").await, first.welcome.session_id);
    let script = "say $user $tag; attribute name; attribute empty; attribute other";
    assert_eq!(ask(&mut first, script).await, "7 3 anna  none");
    let mut second = connect(&gateway, "").await;
    assert_eq!(ask(&mut second, script).await, "none 0 none none none");
    assert_eq!(ask(&mut second, "deliver group:5 always to the group; deliver user:7 always to the user").await, "");
    assert_push(&mut first, 2, "to the group").await;
    assert_push(&mut first, 3, "to the user").await;
    let read = format!("attribute name {}", first.welcome.session_id);
    assert_eq!(ask(&mut second, &read).await, "anna");
    drop(first);
    sessions_are(&gateway, 1.0).await;
    assert_eq!(ask(&mut second, &read).await, "none");
}

#[tokio::test]
async fn a_user_that_on_connect_names_is_for_good() {
    let gateway = start().await;
    let mut client = connect(&gateway, "user=9000000000").await;
    assert_eq!(ask(&mut client, "say $user; bind 9000000000").await, "9000000000");
    let reply = client.request(ROUTE, b"bind 8").await;
    assert_eq!((reply.status, reply.text()), (6, "the session is bound to another user"));
}

#[tokio::test]
async fn a_denied_client_gets_the_status_and_the_text_and_there_is_no_session() {
    let gateway = start().await;
    for (status, head) in [
        (403, "HTTP/1.1 403 Forbidden\r\nConnection: close\r\n"),
        (400, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n"),
        (429, "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nConnection: close\r\n"),
        (599, "HTTP/1.1 599 \r\nConnection: close\r\n"),
    ] {
        let response = refused(&gateway, &format!("deny={status}&tag=3")).await;
        assert_eq!((response.status, &*response.body), (status, "probe says no"));
        assert!(response.head.starts_with(head), "{response:?}");
    }
    gateway.metric_is(DENIED, 4.0).await;
    gateway.metric_is("gateway_sessions", 0.0).await;
    assert!(gateway.metric("gateway_connections_total").await < 0.5);
    gateway.metric_is("gateway_plugin_calls_total{plugin=\"probe\",outcome=\"rejected\"}", 4.0).await;
    connect(&gateway, "").await.assert_alive().await;
}

#[tokio::test]
async fn plugins_are_asked_in_the_order_of_their_names_and_have_to_agree_on_the_user() {
    let gateway = start_both().await;
    let response = refused(&gateway, "user=7&zebra.user=8").await;
    assert_eq!((response.status, &*response.body), (403, "the session is bound to another user"));
    let response = refused(&gateway, "deny=410&zebra.deny=411").await;
    assert_eq!((response.status, &*response.body), (410, "probe says no"));
    gateway.metric_is(DENIED, 2.0).await;
    let mut client = connect(&gateway, "user=7&tag=3&zebra.user=7&zebra.tag=4&zebra.attribute=name:zoe").await;
    assert_eq!(ask(&mut client, "say $user $tag; attribute name").await, "7 3 none");
    assert_eq!(ask_on(&mut client, ZEBRA, "say $user $tag; attribute name").await, "7 4 zoe");
}

#[tokio::test]
async fn a_plugin_is_told_that_a_later_plugin_has_not_admitted_the_session() {
    let gateway = start_both().await;
    let mut client = connect(&gateway, "").await;
    for route in [ROUTE, ZEBRA] {
        ask_on(&mut client, route, "put on-disconnect put gone %cause %tag %user").await;
    }
    let response = refused(&gateway, "tag=4&user=7&do=join+5&zebra.deny=403").await;
    assert_eq!((response.status, &*response.body), (403, "zebra says no"));
    ask_until(&mut client, "get gone", "not_admitted 4 7").await;
    assert_eq!(ask_on(&mut client, ZEBRA, "get gone").await, "none");
    // The session has left its group.
    assert_eq!(ask(&mut client, "deliver group:5 always nobody is there").await, "");
    gateway.metric_is("gateway_deliveries_total{outcome=\"not_here\"}", 1.0).await;
}

#[tokio::test]
async fn what_one_plugin_has_sent_to_a_session_that_another_denies_is_counted_as_lost() {
    let gateway = start_both().await;
    let response = refused(&gateway, "do=deliver+me+always+hello&zebra.deny=403").await;
    assert_eq!((response.status, &*response.body), (403, "zebra says no"));
    gateway.metric_is("gateway_messages_dropped_total{reason=\"session_ended\"}", 1.0).await;
}

/// Connects with a request that is [`UPGRADE`] with a part replaced. Returns the plugin's push, and the client's
/// address.
async fn told(gateway: &Gateway, old: &str, new: &str) -> (String, String) {
    let mut wire = Wire::connect(gateway.address).await;
    let address = wire.stream.local_addr().unwrap().to_string();
    wire.send(UPGRADE.replace(old, new).as_bytes()).await;
    assert_eq!(wire.response().await.status, 101);
    let _welcome = wire.frame().await.unwrap();
    let (_, push) = wire.frame().await.unwrap();
    (String::from_utf8(push[8..].to_vec()).unwrap(), address)
}

#[tokio::test]
async fn a_plugin_gets_the_query_without_the_tokens_and_only_the_listed_headers() {
    let server = "plugin_headers: [X-Region, x-name]".to_owned();
    let gateway = Gateway::start(Setup { server, ..setup("") }).await;
    let request =
        "/ws?a=%20+b&token=secret&resume=secret&tell=1 HTTP/1.1\r\nX-REGION: eu\r\nCookie: a=b\r\nx-region: us";
    let (told, address) = told(&gateway, "/ws HTTP/1.1", request).await;
    let headers = r#"[("x-region", "eu"), ("x-region", "us")]"#;
    assert_eq!(told, format!("{address} \"a=%20+b&tell=1\" {headers} None None"));
}

const SECRET: &str = "the secret of the end-to-end tests";
/// A token of user 7, as in tests/websocket/authentication.rs.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI3IiwiZXhwIjo0MTAyNDQ0ODAwfQ.\
                     lctmq-Ga5Rj75C4DPf4_QQNagz7Ry1fMMtFnVzaXxiw";

#[tokio::test]
async fn a_plugin_gets_the_user_and_the_claims_of_a_token_that_was_checked() {
    let setup = setup("");
    let yaml = format!("{}\nauth: {{ jwt_secret: {SECRET:?} }}", setup.yaml);
    let gateway = Gateway::start(Setup { yaml, ..setup }).await;
    let (told, address) = told(&gateway, "/ws", &format!("/ws?token={TOKEN}&tell=1")).await;
    let claims = r#""{\"sub\":\"7\",\"exp\":4102444800}""#;
    assert_eq!(told, format!("{address} \"tell=1\" [] Some(7) Some({claims})"));

    let response = refused(&gateway, &format!("token={TOKEN}&user=8")).await;
    assert_eq!((response.status, &*response.body), (403, "the session is bound to another user"));
    let mut client = connect(&gateway, &format!("token={TOKEN}&user=7")).await;
    assert_eq!(ask(&mut client, "say $user").await, "7");
    // The plugin is not asked about a client without a valid token.
    assert_eq!(refused(&gateway, "deny=403").await.status, 401);
}

#[tokio::test]
async fn a_call_gets_the_time() {
    let gateway = start().await;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let mut client = Client::connect(gateway.address).await;
    let before = now();
    let seen: u128 = ask(&mut client, "say $now").await.parse().unwrap();
    assert!((before..=now()).contains(&seen), "{seen} is not from {before} on");
}

#[tokio::test]
async fn an_admission_that_breaks_a_rule_lets_nobody_in() {
    let gateway = start().await;
    for query in ["do=bind+7".to_owned(), "deny=200".to_owned(), format!("attribute=name:{}", "x".repeat(1025))] {
        let response = refused(&gateway, &query).await;
        assert_eq!((response.status, &*response.body), (503, "the plugin failed"), "{query}");
        assert_eq!(response.header("Retry-After"), Some("1"));
    }
    gateway.metric_is("gateway_plugin_calls_total{plugin=\"probe\",outcome=\"invalid\"}", 3.0).await;
    let mut client = connect(&gateway, &format!("attribute=name:{}", "x".repeat(1024))).await;
    let Packet { status, payload, .. } = client.request(ROUTE, b"attribute name").await;
    assert_eq!((status, payload.len()), (0, 1024));
}
