//! Tests with many sessions that come and go: no session is left behind.

use futures_util::{SinkExt, future::join_all};
use gateway_tests::{
    Client, Gateway, Setup, eventually,
    wire::{UPGRADE, Wire, reset},
};
use tokio_tungstenite::tungstenite::Message;

const ENDS: [&str; 4] = ["closed", "gone", "text", "too_large"];

async fn ended(gateway: &Gateway) -> f64 {
    let counts = ENDS.map(|reason| format!("gateway_disconnections_total{{reason={reason:?}}}"));
    join_all(counts.iter().map(|count| gateway.metric(count))).await.iter().sum()
}

/// Disconnects the client in one of five ways.
async fn leave(mut client: Client, way: usize) {
    match way % 5 {
        0 => client.socket.close(None).await.unwrap(),
        1 => reset(client.socket.get_ref()),
        2 => client.socket.send(Message::text("bye")).await.unwrap(),
        3 => client.send_message(vec![0; 2000]).await,
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_thousand_connects_and_disconnects_no_session_is_left() {
    let gateway = Gateway::start(Setup::server("max_message_bytes: 1000")).await;
    for _ in 0..20 {
        let mut clients = join_all((0..50).map(|_| gateway.client())).await;
        join_all(clients.iter_mut().map(Client::assert_alive)).await;
        assert!(gateway.metric("gateway_sessions").await >= 50.0);
        join_all(clients.into_iter().enumerate().map(|(way, client)| leave(client, way))).await;
    }
    gateway.metric_is("gateway_sessions", 0.0).await;
    gateway.metric_is("gateway_connections_total", 1000.0).await;
    // Each session is counted once as ended.
    eventually("each of a thousand sessions is counted as ended", || async {
        (ended(&gateway).await >= 1000.0).then_some(())
    })
    .await;
    assert_eq!(ended(&gateway).await, 1000.0);
    gateway.client().await.assert_alive().await;
}

#[tokio::test]
async fn the_sessions_gauge_counts_open_sessions() {
    let gateway = Gateway::start(Setup::default()).await;
    gateway.metric_is("gateway_sessions", 0.0).await;
    let mut clients = Vec::new();
    for count in 1..=5 {
        clients.push(gateway.client().await);
        gateway.metric_is("gateway_sessions", f64::from(count)).await;
    }
    // A connection that has not upgraded is not a session.
    let _half = Wire::connect(gateway.address).await;
    while let Some(client) = clients.pop() {
        drop(client);
        gateway.metric_is("gateway_sessions", clients.len() as f64).await;
    }
    gateway.metric_is("gateway_connections_total", 5.0).await;
}

#[tokio::test]
async fn out_of_file_descriptors_the_gateway_serves_on_and_accepts_again_once_some_left() {
    let gateway = Gateway::start(Setup { open_files: Some(64), ..Setup::default() }).await;
    let mut early = gateway.client().await;
    let mut crowd = Vec::new();
    // The kernel accepts these connections for the gateway, so that all of them can send.
    for _ in 0..80 {
        let mut wire = Wire::connect(gateway.address).await;
        wire.send(UPGRADE.as_bytes()).await;
        crowd.push(wire);
    }
    gateway.logged("cannot accept connections").await;
    for _ in 0..20 {
        early.assert_alive().await;
    }
    let mut last = crowd.pop().unwrap();
    let mut byte = [0];
    assert!(last.stream.try_read(&mut byte).is_err(), "the last connection is served: descriptors did not run out");
    drop(crowd);
    assert_eq!(last.response().await.status, 101);
    early.assert_alive().await;
    gateway.client().await.assert_alive().await;
    assert!(gateway.metric("gateway_handshakes_refused_total{reason=\"accept_failed\"}").await >= 1.0);
    drop((early, last));
    gateway.metric_is("gateway_sessions", 0.0).await;
}

#[tokio::test]
async fn the_soft_limit_of_open_files_is_raised_to_the_hard_one_at_start() {
    let gateway = Gateway::start(Setup { soft_open_files: Some(64), ..Setup::default() }).await;
    let mut clients = join_all((0..100).map(|_| gateway.client())).await;
    join_all(clients.iter_mut().map(Client::assert_alive)).await;
    gateway.metric_is("gateway_handshakes_refused_total{reason=\"accept_failed\"}", 0.0).await;
}
