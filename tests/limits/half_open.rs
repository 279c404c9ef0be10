//! Tests of connections that do not finish their handshake.

use crate::{limits, refused};
use gateway_tests::{
    Gateway, Setup, eventually,
    wire::{UPGRADE, Wire},
};
use std::{fs, time::Duration};
use tokio::time;

/// The number of connections of a flood.
const FLOOD: usize = 3000;

/// Opens a connection that does not finish its handshake: it sends nothing, or a part of a request.
async fn half_open(gateway: &Gateway, i: usize) -> Wire {
    let mut wire = Wire::connect(gateway.address).await;
    if i.is_multiple_of(2) {
        // An error means that the connection has been evicted already.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut wire.stream, &UPGRADE.as_bytes()[..i % UPGRADE.len()]).await;
    }
    wire
}

/// Starts a gateway with 256 open files, in which no handshake times out.
async fn start(keys: &str) -> Gateway {
    let server = "handshake_timeout_s: 3600".to_owned();
    Gateway::start(Setup { server, open_files: Some(256), ..limits(keys) }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_unfinished_handshakes_keeps_no_good_client_out() {
    let gateway = start("handshakes: 50").await;
    let mut early = gateway.client().await;
    let (mut flood, mut good) = (Vec::new(), Vec::new());
    for i in 0..FLOOD {
        flood.push(half_open(&gateway, i).await);
        // Without evictions, all descriptors would be in use from the 250th connection on, and for an hour.
        if i % 100 == 50 {
            let mut client = gateway.client().await;
            client.assert_alive().await;
            good.push(client);
        }
    }
    eventually("the last handshakes", || async {
        (gateway.metric(&refused("handshake_evicted")).await >= (FLOOD - 50) as f64).then_some(())
    })
    .await;
    gateway.metric_is(&refused("handshake_evicted"), (FLOOD - 50) as f64).await;
    gateway.metric_is("gateway_connections_total", 1.0 + (FLOOD / 100) as f64).await;
    gateway.metric_is(&refused("accept_failed"), 0.0).await;
    gateway.metric_is(&refused("timeout"), 0.0).await;
    early.assert_alive().await;
    for client in &mut good {
        client.assert_alive().await;
    }
    // The oldest were evicted, and the newest still wait.
    assert_eq!(flood[0].frame().await, None);
    let mut last = flood.pop().unwrap();
    let sent = if (FLOOD - 1).is_multiple_of(2) { (FLOOD - 1) % UPGRADE.len() } else { 0 };
    last.send(&UPGRADE.as_bytes()[sent..]).await;
    assert_eq!(last.response().await.status, 101);
}

#[tokio::test]
async fn of_connections_that_arrive_together_the_last_ones_stay() {
    let gateway = start("handshakes: 50").await;
    // They wait for the gateway in the kernel, and it accepts all of them in one go.
    gateway.signal("STOP").await;
    let mut flood = Vec::new();
    for _ in 0..100 {
        flood.push(Wire::connect(gateway.address).await);
    }
    gateway.signal("CONT").await;
    gateway.metric_is(&refused("handshake_evicted"), 50.0).await;
    for wire in &mut flood[..50] {
        assert_eq!(wire.frame().await, None);
    }
    for wire in &mut flood[50..] {
        wire.send(UPGRADE.as_bytes()).await;
        assert_eq!(wire.response().await.status, 101);
    }
}

#[tokio::test]
async fn by_default_a_quarter_of_the_open_files_is_for_handshakes() {
    let gateway = start("").await;
    let mut flood = Vec::new();
    for i in 0..100 {
        flood.push(half_open(&gateway, i).await);
    }
    gateway.metric_is(&refused("handshake_evicted"), 100.0 - 64.0).await;
    gateway.client().await.assert_alive().await;
}

#[tokio::test]
async fn connections_of_a_proxy_that_send_no_header_make_room_as_well() {
    let server = "handshake_timeout_s: 3600, trusted_proxies: [127.0.0.1], proxy_protocol: true".to_owned();
    let gateway = Gateway::start(Setup { server, open_files: Some(256), ..limits("handshakes: 10") }).await;
    let mut flood = Vec::new();
    for _ in 0..30 {
        flood.push(Wire::connect(gateway.address).await);
    }
    gateway.metric_is(&refused("handshake_evicted"), 20.0).await;
    assert_eq!(flood[0].frame().await, None);
    let mut last = flood.pop().unwrap();
    last.send(format!("PROXY TCP4 203.0.113.7 10.0.0.9 56324 8080\r\n{UPGRADE}").as_bytes()).await;
    assert_eq!(last.response().await.status, 101);
}

#[tokio::test]
async fn clients_that_linger_after_a_refusal_make_room_as_well() {
    let gateway = start("handshakes: 10").await;
    let mut lingering = Vec::new();
    for _ in 0..300 {
        let mut wire = Wire::connect(gateway.address).await;
        wire.send(UPGRADE.replace("/ws", "/other").as_bytes()).await;
        assert_eq!(wire.response().await.status, 404);
        lingering.push(wire);
    }
    gateway.client().await.assert_alive().await;
    gateway.metric_is(&refused("not_found"), 300.0).await;
    // A refused client is counted once.
    gateway.metric_is(&refused("handshake_evicted"), 0.0).await;
    gateway.metric_is(&refused("accept_failed"), 0.0).await;
}

/// Returns whether the gateway has this many open files for a while, and not just because it looks at its own.
async fn has_open(gateway: &Gateway, files: usize) -> bool {
    for _ in 0..10 {
        if fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count() < files {
            return false;
        }
        time::sleep(Duration::from_millis(10)).await;
    }
    true
}

#[tokio::test]
async fn without_descriptors_nobody_is_evicted_for_clients_that_do_not_exist() {
    const FILES: u32 = 64;
    let gateway = Gateway::start(Setup { open_files: Some(FILES), ..limits("handshakes: 1000") }).await;
    let mut clients = Vec::new();
    while !has_open(&gateway, FILES as usize).await {
        clients.push(gateway.client().await);
    }
    // The gateway tries to accept another client several times.
    time::sleep(Duration::from_millis(500)).await;
    // The metrics need a descriptor, too.
    clients.truncate(clients.len() - 4);
    gateway.metric_is("gateway_sessions", clients.len() as f64).await;
    gateway.metric_is(&refused("accept_failed"), 0.0).await;
    gateway.metric_is(&refused("handshake_evicted"), 0.0).await;
    for client in &mut clients {
        client.assert_alive().await;
    }
}

#[tokio::test]
async fn out_of_descriptors_unfinished_handshakes_make_room() {
    let setup = limits("handshakes: 1000");
    let server = "handshake_timeout_s: 3600".to_owned();
    let gateway = Gateway::start(Setup { server, open_files: Some(64), ..setup }).await;
    let mut flood = Vec::new();
    for i in 0..200 {
        flood.push(half_open(&gateway, i).await);
    }
    gateway.client().await.assert_alive().await;
    assert!(gateway.metric(&refused("accept_failed")).await >= 1.0);
    assert!(gateway.metric(&refused("handshake_evicted")).await >= 100.0);
}
