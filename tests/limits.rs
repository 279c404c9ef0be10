//! Tests of the section `limits`: what a client, an address and a user may use, and what those who are over a limit get.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "limits/half_open.rs"]
mod half_open;
#[path = "limits/handshakes.rs"]
mod handshakes;
#[path = "limits/rates.rs"]
mod rates;
#[path = "limits/users.rs"]
mod users;

use gateway_tests::{
    Client, Gateway, Setup,
    wire::{Response, UPGRADE, Wire},
};
use std::net::Ipv4Addr;
use tokio::net::TcpSocket;

/// Returns a setup with chat, system and these keys of `limits`.
fn limits(keys: &str) -> Setup {
    Setup { yaml: format!("games: [{{ id: mmo }}]\nlimits: {{ {keys} }}"), ..Setup::default() }
}

/// Changes the limits of a running gateway, and waits until they hold.
async fn change(gateway: &Gateway, setup: &Setup) {
    let lines = gateway.log_lines().len();
    gateway.reconfigure(setup);
    gateway.logged_after(lines, "configuration read again").await;
    let restart = |line: &serde_json::Value| line.to_string().contains("with the next start only");
    assert!(!gateway.log_lines().iter().any(restart), "{:#?}", gateway.log_lines());
}

/// Asks for a session, and returns the connection and the answer.
async fn ask(gateway: &Gateway, request: &str) -> (Wire, Response) {
    let mut wire = Wire::connect(gateway.address).await;
    wire.send(request.as_bytes()).await;
    let response = wire.response().await;
    (wire, response)
}

/// Asks for a session from this address of the loopback network, and returns the connection and the answer.
async fn ask_from(gateway: &Gateway, address: Ipv4Addr) -> (Wire, Response) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    let mut wire = Wire { stream: socket.connect(gateway.address).await.unwrap() };
    wire.send(UPGRADE.as_bytes()).await;
    let response = wire.response().await;
    (wire, response)
}

/// Asserts that this is the answer of a gateway that has too many sessions or handshakes.
#[track_caller]
fn assert_over_limit((_, response): &(Wire, Response), status: u16, reason: &str) {
    assert_eq!((response.status, &*response.body), (status, &*format!("{reason}\n")), "{response:?}");
    assert_eq!(response.header("Retry-After"), Some("1"));
    assert_eq!(response.header("Connection"), Some("close"));
}

fn refused(reason: &str) -> String {
    format!("gateway_handshakes_refused_total{{reason={reason:?}}}")
}

/// Asserts that the gateway closes the session because another one of its user began.
async fn assert_replaced(client: &mut Client) {
    let frame = client.closed().await.unwrap();
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4009, "another session of this user began"));
}
