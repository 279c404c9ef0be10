//! What happens when the token of a session expires, and how a client goes on.

use crate::{after, claims_with, connected, denied, setup, start};
use gateway_proto::{ClientControl, Control, Refresh, TokenExpires, client_control::Request, control::Event};
use gateway_tests::{
    Gateway, Issuer, SECRET, Setup, chat_request, eventually, header, in_time,
    wire::{BINARY, CLOSE, PING, UPGRADE, Wire, frame},
};
use prost::Message;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Returns the packet that refreshes the token.
fn refresh(seq: u32, token: &str) -> Vec<u8> {
    let request = Some(Request::Refresh(Refresh { token: token.to_owned() }));
    [header(seq, 0), ClientControl { request }.encode_to_vec()].concat()
}

/// Returns the next frame that is no ping.
async fn next(wire: &mut Wire) -> (u8, Vec<u8>) {
    let next = async {
        loop {
            let (first, payload) = wire.frame().await.expect("a frame");
            if first != PING {
                return (first, payload.to_vec());
            }
        }
    };
    // Pings come for as long as the session lives.
    in_time("a frame that is no ping", next).await
}

/// Waits for the warning that the token expires, and returns the milliseconds that are left.
async fn warning(wire: &mut Wire) -> i64 {
    let (first, packet) = next(wire).await;
    assert_eq!((first, &packet[..8]), (BINARY, &[0; 8][..]), "{packet:?}");
    match Control::decode(&packet[8..]).unwrap().event {
        Some(Event::TokenExpires(TokenExpires { in_ms })) => in_ms,
        other => panic!("{other:?}"),
    }
}

/// Asserts that the session ends because its token has expired.
async fn expired(wire: &mut Wire) {
    let (first, payload) = next(wire).await;
    assert_eq!((first, &payload[..]), (CLOSE, &[&4001_u16.to_be_bytes()[..], b"the token has expired"].concat()[..]));
}

/// Sends a packet on the control route, and returns the status and the text of the reply.
async fn answer(wire: &mut Wire, packet: &[u8]) -> (u16, String) {
    wire.send(&frame(BINARY, packet)).await;
    let (_, reply) = next(wire).await;
    assert_eq!((&reply[..4], reply[4], reply[5]), (&packet[..4], 0, 1), "{reply:?}");
    (u16::from_be_bytes([reply[6], reply[7]]), String::from_utf8(reply[8..].to_vec()).unwrap())
}

/// Waits until the clock is past a time that a token has.
async fn until(time: i64) {
    eventually("the expiry", || async { (after(0) > time).then_some(()) }).await;
}

/// Starts an issuer that has signed a token, so that the next one is there at once.
async fn ready_issuer() -> Issuer {
    let mut issuer = Issuer::start().await;
    issuer.sign_with_secret("HS256", &claims_with(json!({}))).await;
    issuer
}

fn invalid(why: &str) -> (u16, String) {
    (6, format!("the token is not valid: {why}"))
}

#[tokio::test]
async fn a_session_is_warned_and_ends_with_4001_when_its_token_expires() {
    let mut issuer = ready_issuer().await;
    let gateway = start(&format!("jwt_secret: {SECRET:?}, leeway_s: 0")).await;
    let token = issuer.sign_with_secret("HS256", &claims_with(json!({ "exp": after(10) }))).await;
    let mut wire = connected(&gateway, &token).await;
    let left = warning(&mut wire).await;
    assert!((1..=2500).contains(&left), "a quarter of the remaining life is left: {left} ms");
    expired(&mut wire).await;
    gateway.metric_is("gateway_disconnections_total{reason=\"token_expired\"}", 1.0).await;
    // The gateway's clock is at the expiry, so a new session does not begin either.
    denied(&gateway, &token, "it has expired").await;
}

#[tokio::test]
async fn no_ping_comes_together_with_the_warning() {
    let mut issuer = ready_issuer().await;
    let gateway = start(&format!("jwt_secret: {SECRET:?}, leeway_s: 60")).await;
    let token = issuer.sign_with_secret("HS256", &claims_with(json!({ "exp": after(4) }))).await;
    let mut wire = connected(&gateway, &token).await;
    warning(&mut wire).await;
    let warned = Instant::now();
    let (first, _) = in_time("a ping", wire.frame()).await.unwrap();
    assert_eq!(first, PING);
    assert!(warned.elapsed() >= Duration::from_millis(500), "{:?}", warned.elapsed());
}

#[tokio::test]
async fn a_token_that_has_expired_within_the_leeway_is_warned_at_once() {
    let mut issuer = ready_issuer().await;
    let gateway = start(&format!("jwt_secret: {SECRET:?}, leeway_s: 3600")).await;
    let token = issuer.sign_with_secret("HS256", &claims_with(json!({ "exp": after(-3590) }))).await;
    let mut wire = connected(&gateway, &token).await;
    assert_eq!(warning(&mut wire).await, 0);
    expired(&mut wire).await;
}

#[tokio::test]
async fn a_refreshed_session_goes_on_and_the_delivery_counter_does_not_count_the_warning() {
    let mut issuer = ready_issuer().await;
    let gateway = start(&format!("jwt_secret: {SECRET:?}, leeway_s: 0")).await;
    let mut token = async |claims: Value| issuer.sign_with_secret("HS256", &claims_with(claims)).await;
    let longer = token(json!({ "exp": after(3600) })).await;
    // The client has a quarter of this time to refresh the token.
    let expires = after(12);
    let first = token(json!({ "exp": expires })).await;
    let mut wire = connected(&gateway, &first).await;
    warning(&mut wire).await;
    assert_eq!(answer(&mut wire, &refresh(1, &longer)).await, (0, String::new()));
    // The session lives on after the expiry of the first token.
    until(expires).await;
    let push = [header(2, 1), chat_request("mmo", 7, "hello")].concat();
    wire.send(&frame(BINARY, &push)).await;
    assert_eq!(next(&mut wire).await.1[..8], [0, 0, 0, 1, 1, 0, 0, 0]);
    gateway.metric_is("gateway_disconnections_total{reason=\"token_expired\"}", 0.0).await;
    gateway.metric_is("gateway_messages_received_total{route=\"0\"}", 1.0).await;
    // A shorter life than before counts as well.
    let shorter = token(json!({ "exp": after(8) })).await;
    assert_eq!(answer(&mut wire, &refresh(3, &shorter)).await, (0, String::new()));
    warning(&mut wire).await;
    expired(&mut wire).await;
}

#[tokio::test]
async fn a_bad_refresh_is_answered_with_its_reason_and_changes_nothing() {
    let mut issuer = Issuer::start().await;
    let gateway = start(&format!("jwt_secret: {SECRET:?}, required: false")).await;
    let mut token = async |claims: Value| issuer.sign_with_secret("HS256", &claims_with(claims)).await;
    let valid = token(json!({})).await;
    let mut wire = connected(&gateway, &valid).await;
    let other = (6, "the token does not name the user of the session".to_owned());
    assert_eq!(answer(&mut wire, &refresh(1, &token(json!({ "sub": "8" })).await)).await, other);
    assert_eq!(
        answer(&mut wire, &refresh(2, &token(json!({ "exp": after(-60) })).await)).await,
        invalid("it has expired")
    );
    let malformed = invalid("it is not a JSON Web Token with a supported algorithm");
    assert_eq!(answer(&mut wire, &refresh(3, "")).await, malformed);
    let request = "the payload is not a gateway.ClientControl with a request".to_owned();
    for payload in [&b""[..], b"\xff\xff", b"\x12\x00"] {
        assert_eq!(answer(&mut wire, &[&header(4, 0)[..], payload].concat()).await, (2, request.clone()));
    }
    let large = (9, "the payload has 16385 bytes, and this route takes 16384 (`max_payload_bytes`)".to_owned());
    assert_eq!(answer(&mut wire, &[header(5, 0), vec![0; 16_385]].concat()).await, large);
    assert_eq!(answer(&mut wire, &refresh(6, &valid)).await, (0, String::new()));
    // An anonymous session has no user, so it cannot get a token.
    let mut anonymous = Wire::connect(gateway.address).await;
    anonymous.send(UPGRADE.as_bytes()).await;
    assert_eq!(anonymous.response().await.status, 101);
    anonymous.frame().await.unwrap();
    let no_user = (6, "the session has no user whose token could be refreshed: connect with the token".to_owned());
    assert_eq!(answer(&mut anonymous, &refresh(1, &valid)).await, no_user);
}

#[tokio::test]
async fn an_expiry_that_is_ignored_neither_warns_nor_ends() {
    let mut issuer = ready_issuer().await;
    let gateway = start(&format!("jwt_secret: {SECRET:?}, leeway_s: 0, on_expiry: ignore")).await;
    let expires = after(6);
    let token = issuer.sign_with_secret("HS256", &claims_with(json!({ "exp": expires }))).await;
    let mut wire = connected(&gateway, &token).await;
    until(expires).await;
    let heartbeat = [header(1, 3), b"alive".to_vec()].concat();
    wire.send(&frame(BINARY, &heartbeat)).await;
    assert_eq!(next(&mut wire).await, (BINARY, [&[0, 0, 0, 1, 3, 1, 0, 0], &b"alive"[..]].concat()));
}

#[tokio::test]
async fn a_session_keeps_its_expiry_when_the_keys_change_and_refreshes_with_the_new_ones() {
    let mut issuer = Issuer::start().await;
    let gateway = start(&format!("jwt_secret: {SECRET:?}, leeway_s: 0")).await;
    let token = issuer.sign_with_secret("HS256", &claims_with(json!({ "exp": after(3600) }))).await;
    let mut wire = connected(&gateway, &token).await;
    let other_secret = "x".repeat(32);
    gateway.reconfigure(&setup(&format!("jwt_secret: {other_secret}")));
    gateway.logged("configuration read again").await;
    assert_eq!(answer(&mut wire, &refresh(1, &token)).await, invalid("its signature is wrong"));
    let lines = gateway.log_lines().len();
    gateway.reconfigure(&setup(&format!("jwt_secret: {SECRET:?}")));
    gateway.logged_after(lines, "configuration read again").await;
    assert_eq!(answer(&mut wire, &refresh(2, &token)).await, (0, String::new()));
}

#[tokio::test]
async fn no_plugin_may_claim_the_control_route() {
    let setup = setup(&format!("jwt_secret: {SECRET:?}"));
    let yaml = format!("{}\nplugins: {{ directory: plugins, settings: {{ system: {{ routes: [0] }} }} }}", setup.yaml);
    let gateway = Gateway::start(Setup { yaml, ..setup }).await;
    gateway.logged("it claims the route 0, which is the gateway's own: choose another from 1 to 255").await;
}
