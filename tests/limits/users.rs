//! Tests of the limit on the sessions of one user.

use crate::{ask, assert_over_limit, assert_replaced, change, limits, refused};
use gateway_tests::{Client, Gateway, Setup, chat_request, probe, wire::UPGRADE};

const CLOSED: &str = "gateway_disconnections_total{reason=\"sessions_per_user\"}";

/// A token of user 7, which is valid until the year 2100.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI3IiwiZXhwIjo0MTAyNDQ0ODAwfQ.\
                     lctmq-Ga5Rj75C4DPf4_QQNagz7Ry1fMMtFnVzaXxiw";

/// Returns a setup with the plugin `probe`, which decides on connections, and these keys of `limits`.
fn with_probe(keys: &str) -> Setup {
    Setup { files: vec![("probe.wasm", probe())], ..limits(keys) }
}

/// Returns a setup with the plugin `probe`, in which clients need a token.
fn with_tokens(keys: &str) -> Setup {
    let setup = with_probe(keys);
    let auth = "auth: { jwt_secret: \"the secret of the end-to-end tests\" }";
    Setup { yaml: format!("{}\n{auth}", setup.yaml), ..setup }
}

async fn connect(gateway: &Gateway, query: &str) -> Client {
    Client::connect_to(gateway.address, &format!("/ws?{query}")).await
}

/// Returns the request of a session with this query.
fn request(query: &str) -> String {
    UPGRADE.replace("/ws", &format!("/ws?{query}"))
}

#[tokio::test]
async fn the_oldest_sessions_of_a_user_end_with_4009_when_a_packet_binds_one_too_many() {
    let gateway = Gateway::start(limits("sessions_per_user: 2")).await;
    let mut unbound = gateway.client().await;
    let mut other = gateway.client_of(8).await;
    let [mut first, mut second] = [gateway.client_of(7).await, gateway.client_of(7).await];
    let mut third = gateway.client_of(7).await;
    assert_replaced(&mut first).await;
    gateway.metric_is(CLOSED, 1.0).await;
    // More packets of a session that is bound close nobody.
    for client in [&mut second, &mut third] {
        client.send(1, &chat_request("mmo", 7, "again")).await;
        client.assert_alive().await;
    }
    let mut fourth = gateway.client_of(7).await;
    assert_replaced(&mut second).await;
    for client in [&mut unbound, &mut other, &mut third, &mut fourth] {
        client.assert_alive().await;
    }
    gateway.metric_is(CLOSED, 2.0).await;
    gateway.metric_is("gateway_sessions", 4.0).await;
}

#[tokio::test]
async fn with_refuse_a_packet_that_binds_one_too_many_gets_status_7_and_the_session_stays_unbound() {
    let gateway = Gateway::start(limits("sessions_per_user: 1, on_user_limit: refuse")).await;
    let mut first = gateway.client_of(7).await;
    let mut second = gateway.client().await;
    for _ in 0..2 {
        let reply = second.request(1, &chat_request("mmo", 7, "hi")).await;
        assert_eq!((reply.status, reply.text()), (7, "too many sessions of this user"));
    }
    // A session that is bound to user 7 would get status 6.
    let reply = second.send(1, &chat_request("mmo", 8, "hi")).await;
    assert_eq!(second.receive_any().await.status, 5, "nobody listens to packet {reply}");
    first.assert_alive().await;
    second.assert_alive().await;
    drop(first);
    gateway.metric_is("gateway_sessions", 1.0).await;
    let mut third = gateway.client_of(7).await;
    third.assert_alive().await;
    gateway.metric_is(CLOSED, 0.0).await;
    gateway.metric_is("gateway_routing_errors_total{reason=\"too_many_requests\"}", 2.0).await;
}

#[tokio::test]
async fn with_refuse_a_user_that_is_known_at_the_handshake_gets_429() {
    let gateway = Gateway::start(with_tokens("sessions_per_user: 1, on_user_limit: refuse")).await;
    let token = format!("token={TOKEN}");
    let mut first = connect(&gateway, &token).await;
    assert_over_limit(&ask(&gateway, &request(&token)).await, 429, "too many sessions of this user");
    gateway.metric_is(&refused("sessions_per_user"), 1.0).await;
    gateway.logged("\"reason\":\"sessions_per_user\"").await;
    first.assert_alive().await;
    drop(first);
    gateway.metric_is("gateway_sessions", 0.0).await;
    connect(&gateway, &token).await.assert_alive().await;
}

#[tokio::test]
async fn with_refuse_a_user_that_on_connect_names_gets_429() {
    let gateway = Gateway::start(with_probe("sessions_per_user: 1, on_user_limit: refuse")).await;
    let mut first = connect(&gateway, "user=7").await;
    let (_wire, response) = ask(&gateway, &request("user=7")).await;
    assert_eq!((response.status, response.header("Retry-After")), (429, Some("1")), "{response:?}");
    assert_eq!(response.body, "too many sessions of this user");
    gateway.metric_is(&refused("sessions_per_user"), 1.0).await;
    gateway.metric_is(&refused("denied_by_plugin"), 0.0).await;
    first.assert_alive().await;
    connect(&gateway, "user=8").await.assert_alive().await;
}

#[tokio::test]
async fn the_oldest_session_ends_when_the_next_one_begins_and_not_when_it_is_denied() {
    let gateway = Gateway::start(with_tokens("sessions_per_user: 1, on_user_limit: close_oldest")).await;
    let mut first = connect(&gateway, &format!("token={TOKEN}")).await;
    let (_wire, denied) = ask(&gateway, &request(&format!("deny=403&token={TOKEN}"))).await;
    assert_eq!(denied.status, 403, "{denied:?}");
    first.assert_alive().await;
    gateway.metric_is(CLOSED, 0.0).await;
    let mut second = connect(&gateway, &format!("token={TOKEN}")).await;
    assert_replaced(&mut first).await;
    let mut third = connect(&gateway, &format!("user=7&token={TOKEN}")).await;
    assert_replaced(&mut second).await;
    third.assert_alive().await;
    gateway.metric_is(CLOSED, 2.0).await;
}

#[tokio::test]
async fn a_lower_limit_closes_nobody_until_a_session_of_the_user_begins() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut sessions = [gateway.client_of(7).await, gateway.client_of(7).await, gateway.client_of(7).await];
    change(&gateway, &limits("sessions_per_user: 2")).await;
    for client in &mut sessions {
        client.assert_alive().await;
    }
    let mut late = gateway.client_of(7).await;
    let [first, second, third] = &mut sessions;
    assert_replaced(first).await;
    assert_replaced(second).await;
    third.assert_alive().await;
    late.assert_alive().await;
}
