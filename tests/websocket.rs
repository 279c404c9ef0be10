//! Tests of the WebSocket server: handshakes, frames, tokens, and hostile input on its port.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "websocket/authentication.rs"]
mod authentication;
#[path = "websocket/floods.rs"]
mod floods;
#[path = "websocket/frames.rs"]
mod frames;
#[path = "websocket/handshake.rs"]
mod handshake;
#[path = "websocket/pages.rs"]
mod pages;
#[path = "websocket/proxies.rs"]
mod proxies;
#[path = "websocket/violations.rs"]
mod violations;

use gateway_tests::Gateway;
use gateway_wire::packet::{Header, ROUTE_SYSTEM};

/// Asserts that the gateway still serves a new client.
async fn assert_serving(gateway: &Gateway) {
    gateway.client().await.assert_alive().await;
}

/// Returns the packet of a heartbeat.
fn heartbeat(seq: u32, payload: &[u8]) -> Vec<u8> {
    [&Header::request(seq, ROUTE_SYSTEM).encode()[..], payload].concat()
}

/// Returns the packet of the reply to that heartbeat.
fn heartbeat_reply(seq: u32, payload: &[u8]) -> Vec<u8> {
    [&Header::request(seq, ROUTE_SYSTEM).reply(0).encode()[..], payload].concat()
}
