//! Tests of authentication with the tokens of an independent library: which tokens are accepted, where their keys come
//! from, and what happens when they expire.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "auth/expiry.rs"]
mod expiry;
#[path = "auth/https.rs"]
mod https;
#[path = "auth/keys.rs"]
mod keys;
#[path = "auth/secrecy.rs"]
mod secrecy;
#[path = "auth/tokens.rs"]
mod tokens;

use gateway_tests::{
    Gateway, Setup,
    wire::{Response, UPGRADE, Wire},
};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// Returns a setup with this section `auth`.
fn setup(auth: &str) -> Setup {
    let yaml = format!("games: [{{ id: mmo }}]\nauth: {{ {auth} }}");
    Setup { yaml, plugins: vec!["chat", "system", "demo-chat"], ..Setup::default() }
}

async fn start(auth: &str) -> Gateway {
    Gateway::start(setup(auth)).await
}

/// Returns the time that is this number of seconds after now, as a token has it.
fn after(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + seconds
}

/// Returns the claims of user 7, valid for an hour.
fn claims() -> Value {
    json!({ "sub": "7", "exp": after(3600) })
}

/// Returns the claims of user 7 with more or other claims.
fn claims_with(more: Value) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn by_query(token: &str) -> String {
    UPGRADE.replace("/ws", &format!("/ws?token={token}"))
}

fn by_header(token: &str) -> String {
    UPGRADE.replace("\r\nHost", &format!("\r\nAuthorization: Bearer {token}\r\nHost"))
}

/// Asks for a WebSocket. Returns the connection and the response.
async fn ask(gateway: &Gateway, request: &str) -> (Wire, Response) {
    let mut wire = Wire::connect(gateway.address).await;
    wire.send(request.as_bytes()).await;
    let response = wire.response().await;
    (wire, response)
}

/// Connects with a token and receives the welcome.
async fn connected(gateway: &Gateway, token: &str) -> Wire {
    let (mut wire, response) = ask(gateway, &by_query(token)).await;
    assert_eq!(response.status, 101, "{response:?}");
    let (_, welcome) = wire.frame().await.unwrap();
    assert_eq!(welcome[..8], [0, 0, 0, 0, 3, 0, 0, 0]);
    wire
}

/// Returns the status and the text of the answer to a client with this token.
async fn answer(gateway: &Gateway, token: &str) -> (u16, String) {
    let (_, response) = ask(gateway, &by_query(token)).await;
    (response.status, response.body)
}

async fn accepted(gateway: &Gateway, token: &str) {
    let (_, response) = ask(gateway, &by_query(token)).await;
    assert_eq!(response.status, 101, "{response:?}");
}

async fn denied(gateway: &Gateway, token: &str, why: &str) {
    assert_eq!(answer(gateway, token).await, (401, format!("the token is not valid: {why}\n")));
}
