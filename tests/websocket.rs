//! Contract section 1: the WebSocket, and whatever else strangers send to its port.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "websocket/authentication.rs"]
mod authentication;
#[path = "websocket/floods.rs"]
mod floods;
#[path = "websocket/frames.rs"]
mod frames;
#[path = "websocket/handshake.rs"]
mod handshake;
#[path = "websocket/violations.rs"]
mod violations;

use gateway_tests::Gateway;

/// The gateway goes on: a client that comes now is served.
async fn assert_serving(gateway: &Gateway) {
    gateway.client().await.assert_alive().await;
}

/// The bytes of a heartbeat.
fn heartbeat(seq: u32, payload: &[u8]) -> Vec<u8> {
    [&seq.to_be_bytes()[..], &[3, 0, 0, 0], payload].concat()
}

/// The bytes of the reply to it.
fn heartbeat_reply(seq: u32, payload: &[u8]) -> Vec<u8> {
    [&seq.to_be_bytes()[..], &[3, 1, 0, 0], payload].concat()
}
