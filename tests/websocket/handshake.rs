//! Tests of the HTTP upgrade.

use crate::{assert_serving, heartbeat, heartbeat_reply};
use gateway_tests::{
    Gateway, PATIENCE, Setup,
    wire::{BINARY, Response, UPGRADE, Wire, frame},
};
use std::time::Duration;
use tokio::{io::AsyncWriteExt, time::Instant};

/// Sends bytes on a new connection and returns the response, which has to have this status. Asserts that the gateway
/// then ends the connection and serves other clients.
async fn refused(gateway: &Gateway, request: &[u8], status: u16) -> Response {
    let shown = String::from_utf8_lossy(&request[..request.len().min(300)]);
    let mut wire = Wire::connect(gateway.address).await;
    wire.send(request).await;
    let response = wire.response().await;
    assert_eq!(response.status, status, "{shown:?}: {response:?}");
    assert_eq!(wire.frame().await, None, "{shown:?}: the connection does not end");
    assert_serving(gateway).await;
    response
}

#[track_caller]
fn without(field: &str) -> String {
    let line = UPGRADE.split_inclusive("\r\n").find(|line| line.starts_with(field)).expect("a field of the request");
    UPGRADE.replace(line, "")
}

#[track_caller]
fn with(from: &str, to: &str) -> String {
    assert!(UPGRADE.contains(from));
    UPGRADE.replace(from, to)
}

#[tokio::test]
async fn get_ws_upgrades_as_rfc_6455_says() {
    let gateway = Gateway::start(Setup::default()).await;
    let fields_in_other_words = with("Connection: Upgrade", "connection: keep-alive, UPGRADE");
    let whole_url = with("/ws", "http://game.example:8080/ws?a=b");
    for request in [UPGRADE, &with("/ws", "/ws?a=b"), &whole_url, &fields_in_other_words] {
        let mut wire = Wire::connect(gateway.address).await;
        wire.send(request.as_bytes()).await;
        let response = wire.response().await;
        assert!(response.head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{request:?}: {response:?}");
        assert_eq!(response.header("Upgrade"), Some("websocket"));
        assert_eq!(response.header("Connection"), Some("Upgrade"));
        assert_eq!(response.header("Sec-WebSocket-Accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }
}

#[tokio::test]
async fn any_other_path_is_404() {
    let gateway = Gateway::start(Setup::default()).await;
    let paths =
        ["/", "/ws/", "/wsx", "/WS", "/ws/chat", "//ws", "/?/ws", "/metrics", "/healthz", "http://ws", "http://a/"];
    for path in paths {
        refused(&gateway, with("/ws", path).as_bytes(), 404).await;
    }
    refused(&gateway, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404).await;
    let count = paths.len() as f64 + 1.0;
    gateway.metric_is("gateway_handshakes_refused_total{reason=\"not_found\"}", count).await;
}

#[tokio::test]
async fn a_bad_upgrade_is_400() {
    let gateway = Gateway::start(Setup::default()).await;
    let bad = [
        with("GET", "POST"),
        with("GET", "HEAD"),
        with("HTTP/1.1", "HTTP/1.0"),
        without("Upgrade"),
        with("Upgrade: websocket", "Upgrade: h2c"),
        without("Connection"),
        with("Connection: Upgrade", "Connection: keep-alive"),
        without("Host"),
        with("\r\nHost", "\r\nHost: another\r\nHost"),
        without("Sec-WebSocket-Key"),
        with("Sec-WebSocket-Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key"),
        with("dGhlIHNhbXBsZSBub25jZQ==", ""),
        with("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="),
        with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZSE+"),
        with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBs-SBub25jZQ=="),
        with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ==dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for request in &bad {
        refused(&gateway, request.as_bytes(), 400).await;
    }
    gateway.metric_is("gateway_handshakes_refused_total{reason=\"bad_upgrade\"}", bad.len() as f64).await;
}

#[tokio::test]
async fn another_websocket_version_is_426_and_names_13() {
    let gateway = Gateway::start(Setup::default()).await;
    for request in [with("Version: 13", "Version: 8"), with("Version: 13", "Version: x"), without("Sec-WebSocket-V")] {
        let response = refused(&gateway, request.as_bytes(), 426).await;
        assert_eq!(response.header("Sec-WebSocket-Version"), Some("13"));
    }
}

#[tokio::test]
async fn bytes_that_are_not_http_get_400_and_the_gateway_serves_on() {
    let gateway = Gateway::start(Setup::default()).await;
    // The noise is the same in every run. It contains bytes of every value.
    let noise: Vec<u8> = (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let client_hello = [0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3];
    let inputs =
        [&noise[..], &client_hello, &[0; 64], &[0xff; 64], b"\r\n\r\nPRI * HTTP/2.0\r\n\r\n", b"hello gateway\r\n\r\n"];
    for input in inputs {
        refused(&gateway, input, 400).await;
    }
    gateway.metric_is("gateway_handshakes_refused_total{reason=\"not_http\"}", inputs.len() as f64).await;
}

#[tokio::test]
async fn a_request_head_over_16_kib_is_431() {
    let gateway = Gateway::start(Setup::default()).await;
    let head = |len: usize| {
        let padding = "x".repeat(len - UPGRADE.len() - "Cookie: \r\n".len());
        let head = with("\r\nHost", &format!("\r\nCookie: {padding}\r\nHost"));
        assert_eq!(head.len(), len);
        head
    };
    let mut largest = Wire::connect(gateway.address).await;
    largest.send(head(16 * 1024).as_bytes()).await;
    assert_eq!(largest.response().await.status, 101);
    refused(&gateway, head(16 * 1024 + 1).as_bytes(), 431).await;
    refused(&gateway, head(64 * 1024).as_bytes(), 431).await;
    refused(&gateway, format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(17 * 1024)).as_bytes(), 431).await;
    refused(&gateway, with("\r\nHost", &format!("\r\n{}Host", "A: b\r\n".repeat(1000))).as_bytes(), 431).await;
    gateway.metric_is("gateway_handshakes_refused_total{reason=\"too_large\"}", 4.0).await;
}

#[tokio::test]
async fn incomplete_handshakes_are_dropped_after_handshake_timeout_s_while_others_are_served() {
    let gateway = Gateway::start(Setup::server("handshake_timeout_s: 5")).await;
    let began = Instant::now();
    let mut silent = Wire::connect(gateway.address).await;
    let mut half = Wire::connect(gateway.address).await;
    half.send(&UPGRADE.as_bytes()[..60]).await;
    let mut trickling = Wire::connect(gateway.address).await;
    let mut head = UPGRADE.bytes().cycle();
    let timeouts = "gateway_handshakes_refused_total{reason=\"timeout\"}";
    let mut served_meanwhile = 0;
    while gateway.metric(timeouts).await < 3.0 {
        assert!(began.elapsed() < PATIENCE, "the gateway does not drop the incomplete handshakes");
        // The write fails after the gateway has dropped the connection, so its result is ignored.
        let _ = trickling.stream.write_all(&[head.next().unwrap()]).await;
        assert_serving(&gateway).await;
        served_meanwhile += u32::from(gateway.metric(timeouts).await < 1.0);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(5), "dropped after {:?}", began.elapsed());
    assert!(served_meanwhile > 0, "no client was served while the handshakes were incomplete");
    assert_eq!((silent.frame().await, half.frame().await), (None, None));
    gateway.metric_is(timeouts, 3.0).await;
    gateway.metric_is("gateway_sessions", 0.0).await;
}

#[tokio::test]
async fn a_client_that_disconnects_during_the_handshake_is_counted() {
    let gateway = Gateway::start(Setup::default()).await;
    for sent in [0, 60] {
        let mut wire = Wire::connect(gateway.address).await;
        wire.send(&UPGRADE.as_bytes()[..sent]).await;
        wire.stream.shutdown().await.unwrap();
        assert_eq!(wire.frame().await, None);
    }
    let mut wire = Wire::connect(gateway.address).await;
    wire.send(b"GET").await;
    wire.reset();
    gateway.metric_is("gateway_handshakes_refused_total{reason=\"gone\"}", 3.0).await;
    assert_serving(&gateway).await;
}

#[tokio::test]
async fn an_upgrade_request_that_arrives_byte_by_byte_is_served() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut wire = Wire::connect(gateway.address).await;
    for byte in UPGRADE.bytes() {
        wire.send(&[byte]).await;
    }
    assert_eq!(wire.response().await.status, 101);
}

#[tokio::test]
async fn frames_that_arrive_together_with_the_upgrade_request_are_served() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut wire = Wire::connect(gateway.address).await;
    let large = vec![7; 40_000];
    let beats = [
        frame(BINARY, &heartbeat(1, b"early")),
        frame(BINARY, &heartbeat(2, &large)),
        frame(BINARY, &heartbeat(3, b"split")),
    ];
    let all = [UPGRADE.as_bytes(), &beats.concat()].concat();
    let (sent_at_once, later) = all.split_at(all.len() - 5);
    wire.send(sent_at_once).await;
    assert_eq!(wire.response().await.status, 101);
    let (_, welcome) = wire.frame().await.unwrap();
    assert_eq!(welcome[..8], [0, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(wire.frame().await, Some((BINARY, heartbeat_reply(1, b"early").into())));
    assert_eq!(wire.frame().await, Some((BINARY, heartbeat_reply(2, &large).into())));
    wire.send(later).await;
    assert_eq!(wire.frame().await, Some((BINARY, heartbeat_reply(3, b"split").into())));
}
