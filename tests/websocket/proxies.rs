//! Tests of the address that a client has if it connects through proxies: the header `X-Forwarded-For`, and the PROXY
//! protocol. The plugin `probe` tells the address that it gets at `on-connect`.

use crate::assert_serving;
use gateway_tests::{
    Gateway, Setup, probe,
    wire::{UPGRADE, Wire},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.9 56324 8080\r\n";
const CLIENT: &str = "203.0.113.7:56324";

/// Returns a header of version 2 of the PROXY protocol.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &len, body].concat()
}

/// The addresses 203.0.113.7:56324 and 10.0.0.9:8080, as a header of version 2 has them.
const IPV4: [u8; 12] = [203, 0, 113, 7, 10, 0, 0, 9, 0xdc, 0x04, 0x1f, 0x90];

async fn start(server: &str) -> Gateway {
    Gateway::start(Setup { files: vec![("probe.wasm", probe())], ..Setup::server(server) }).await
}

/// Returns a request that makes the plugin tell the client's address, with these lines.
fn request(lines: &str) -> Vec<u8> {
    UPGRADE.replace("/ws", "/ws?tell=1").replace("\r\nHost", &format!("\r\n{lines}Host")).into_bytes()
}

/// Waits for the address that the plugin tells.
async fn told(wire: &mut Wire) -> String {
    assert_eq!(wire.response().await.status, 101);
    let _welcome = wire.frame().await.unwrap();
    let (_, push) = wire.frame().await.unwrap();
    String::from_utf8_lossy(&push[8..]).split(' ').next().unwrap().to_owned()
}

/// Sends bytes on a new connection. Returns the address that the plugin tells, and the address of the connection.
async fn seen(gateway: &Gateway, bytes: &[u8]) -> (String, String) {
    let mut wire = Wire::connect(gateway.address).await;
    let own = wire.stream.local_addr().unwrap().to_string();
    wire.send(bytes).await;
    (told(&mut wire).await, own)
}

#[tokio::test]
async fn x_forwarded_for_is_believed_from_trusted_proxies() {
    let gateway = start("trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]").await;
    let cases = [
        ("X-Forwarded-For: 203.0.113.7\r\n", "203.0.113.7:0"),
        ("X-Forwarded-For: 1.2.3.4, 203.0.113.7, 10.0.0.1\r\n", "203.0.113.7:0"),
        ("x-forwarded-for: 203.0.113.7:5\r\nX-Forwarded-For: 10.0.0.1,[::ffff:10.0.0.2]:6\r\n", "203.0.113.7:5"),
        ("X-Forwarded-For: [2001:db8::7]\r\n", "[2001:db8::7]:0"),
        ("X-Forwarded-For: ::ffff:203.0.113.7\r\n", "203.0.113.7:0"),
        ("X-Forwarded-For: 203.0.113.7, unknown, 10.0.0.1\r\n", "10.0.0.1:0"),
    ];
    for (lines, client) in cases {
        assert_eq!(seen(&gateway, &request(lines)).await.0, client, "{lines:?}");
    }
    for lines in ["", "X-Forwarded-For: \r\n", "X-Forwarded-For: 203.0.113.7, <script>\r\n"] {
        let (client, own) = seen(&gateway, &request(lines)).await;
        assert_eq!(client, own, "{lines:?}");
    }
    // A PROXY header is not expected, so it is no HTTP.
    let mut wire = Wire::connect(gateway.address).await;
    wire.send(&[V1, &request("")].concat()).await;
    assert_eq!(wire.response().await.status, 400);
}

#[tokio::test]
async fn x_forwarded_for_of_a_stranger_is_ignored() {
    for server in ["", "trusted_proxies: [10.0.0.0/8]"] {
        let gateway = start(server).await;
        let (client, own) = seen(&gateway, &request("X-Forwarded-For: 203.0.113.7\r\n")).await;
        assert_eq!(client, own, "{server}");
    }
}

#[tokio::test]
async fn ten_thousand_forwarded_addresses_are_too_large() {
    let gateway = start("trusted_proxies: [127.0.0.0/8]").await;
    for lines in [
        format!("X-Forwarded-For: 203.0.113.7{}\r\n", ", 203.0.113.7".repeat(9_999)),
        "X-Forwarded-For: 203.0.113.7\r\n".repeat(10_000),
    ] {
        let mut wire = Wire::connect(gateway.address).await;
        wire.send(&request(&lines)).await;
        assert_eq!(wire.response().await.status, 431);
    }
    gateway.metric_is("gateway_handshakes_refused_total{reason=\"too_large\"}", 2.0).await;
    // The largest header that fits is searched for 64 addresses.
    let proxies = ", 127.0.0.9".repeat(1_000);
    let (client, _) = seen(&gateway, &request(&format!("X-Forwarded-For: 203.0.113.7{proxies}\r\n"))).await;
    assert_eq!(client, "127.0.0.9:0");
}

#[tokio::test]
async fn the_log_of_a_refused_request_names_the_client() {
    let env = vec![("RUST_LOG", "info,gateway=debug")];
    let gateway = Gateway::start(Setup { env, ..Setup::server(PROXY_PROTOCOL) }).await;
    let mut wire = Wire::connect(gateway.address).await;
    wire.send(&[V1, b"GET / HTTP/1.1\r\n\r\n"].concat()).await;
    assert_eq!(wire.response().await.status, 404);
    assert_eq!(gateway.logged("handshake refused").await["fields"]["remote"], CLIENT);
    let inner = b"PROXY TCP4 127.0.0.8 10.0.0.9 56324 8080\r\n";
    let mut wire = Wire::connect(gateway.address).await;
    wire.send(&[inner, &b"GET / HTTP/1.1\r\nX-Forwarded-For: 203.0.113.8:5\r\n\r\n"[..]].concat()).await;
    assert_eq!(wire.response().await.status, 404);
    assert_eq!(gateway.logged("203.0.113.8").await["fields"]["remote"], "203.0.113.8:5");
}

const PROXY_PROTOCOL: &str = "trusted_proxies: [127.0.0.0/8], proxy_protocol: true";

#[tokio::test]
async fn a_proxy_header_names_the_client() {
    let gateway = start(PROXY_PROTOCOL).await;
    let tlvs = [&IPV4[..], &[0x01, 0, 2, b'h', b'2'], &[0x04, 3, 0], &[0; 768]].concat();
    for header in [V1.to_vec(), v2(0x21, 0x11, &IPV4), v2(0x21, 0x11, &tlvs)] {
        assert_eq!(seen(&gateway, &[&header[..], &request("")].concat()).await.0, CLIENT, "{header:?}");
    }
    let ipv6 = b"PROXY TCP6 2001:db8::7 ::1 56324 8080\r\n";
    assert_eq!(seen(&gateway, &[ipv6, &request("")[..]].concat()).await.0, "[2001:db8::7]:56324");
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20, 0, &[]), v2(0x21, 0, &[])] {
        // A proxy that names no client passes on what it does not read. So the client has written X-Forwarded-For.
        let (client, own) = seen(&gateway, &[&header[..], &request("X-Forwarded-For: 1.2.3.4\r\n")].concat()).await;
        assert_eq!(client, own, "{header:?}");
    }
    // The client that a PROXY header names is no trusted proxy, so its own X-Forwarded-For is not believed.
    assert_eq!(seen(&gateway, &[V1, &request("X-Forwarded-For: 1.2.3.4\r\n")].concat()).await.0, CLIENT);
    // If it is one, its X-Forwarded-For is believed.
    let inner = b"PROXY TCP4 127.0.0.8 10.0.0.9 56324 8080\r\n";
    let sent = [inner, &request("X-Forwarded-For: 1.2.3.4\r\n")[..]].concat();
    assert_eq!(seen(&gateway, &sent).await.0, "1.2.3.4:0");
}

#[tokio::test]
async fn a_proxy_header_may_arrive_byte_by_byte() {
    let gateway = start(PROXY_PROTOCOL).await;
    for header in [V1.to_vec(), v2(0x21, 0x11, &IPV4)] {
        let mut wire = Wire::connect(gateway.address).await;
        for byte in [&header[..], &request("")].concat() {
            wire.send(&[byte]).await;
        }
        assert_eq!(told(&mut wire).await, CLIENT);
    }
}

#[tokio::test]
async fn a_trusted_proxy_without_a_valid_header_is_refused_and_counted() {
    let gateway = start(PROXY_PROTOCOL).await;
    let refused = "gateway_handshakes_refused_total{reason=\"proxy_header\"}";
    let client_hello = [0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3];
    let malformed = [
        request(""),
        client_hello.to_vec(),
        b"PROXY TCP4 203.0.113 10.0.0.9 56324 8080\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 10.0.0.9 56324 80800\r\n".to_vec(),
        [b"PROXY TCP4 ", &[b'1'; 300][..]].concat(),
        v2(0x21, 0x11, &IPV4[..11]),
        v2(0x31, 0x11, &IPV4),
        v2(0x21, 0x11, &[0; 65_535]),
        // The length is too small by one byte, so the last byte of the addresses is the first one of the request.
        [&v2(0x21, 0x11, &IPV4[..11])[..], &IPV4[11..], &request("")].concat(),
    ];
    for bytes in &malformed {
        let mut wire = Wire::connect(gateway.address).await;
        // The gateway may have ended the connection before all bytes are sent.
        let _ = wire.stream.write_all(bytes).await;
        assert_ended(&mut wire).await;
    }
    gateway.metric_is(refused, malformed.len() as f64).await;
    // A length that is too large takes bytes of the request for TLVs. What is left is no HTTP.
    let mut wire = Wire::connect(gateway.address).await;
    let mut long = v2(0x21, 0x11, &IPV4);
    long[15] += 20;
    wire.send(&[&long[..], &request("")].concat()).await;
    assert_eq!(wire.response().await.status, 400);
    // A header that ends too early.
    let mut wire = Wire::connect(gateway.address).await;
    wire.send(&V1[..20]).await;
    wire.stream.shutdown().await.unwrap();
    assert_ended(&mut wire).await;
    gateway.metric_is(refused, malformed.len() as f64 + 1.0).await;
    gateway.logged("connection of a proxy refused").await;
    // A proxy that checks whether the port is open sends nothing.
    drop(Wire::connect(gateway.address).await);
    gateway.metric_is("gateway_handshakes_refused_total{reason=\"gone\"}", 1.0).await;
    assert_eq!(seen(&gateway, &[V1, &request("")].concat()).await.0, CLIENT);
}

/// Waits for the end or the reset of a connection on which the gateway sends nothing.
async fn assert_ended(wire: &mut Wire) {
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(gateway_tests::PATIENCE, wire.stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok() && answer.is_empty(), "{ended:?} {answer:?}");
}

#[tokio::test]
async fn a_proxy_header_that_does_not_arrive_is_dropped_after_handshake_timeout_s() {
    let gateway = start(&format!("{PROXY_PROTOCOL}, handshake_timeout_s: 5")).await;
    let mut silent = Wire::connect(gateway.address).await;
    let mut half = Wire::connect(gateway.address).await;
    half.send(&v2(0x21, 0x11, &IPV4)[..20]).await;
    assert_eq!((silent.frame().await, half.frame().await), (None, None));
    gateway.metric_is("gateway_handshakes_refused_total{reason=\"timeout\"}", 2.0).await;
}

#[tokio::test]
async fn a_proxy_header_of_a_stranger_is_no_http() {
    for server in ["", "trusted_proxies: [10.0.0.0/8], proxy_protocol: true"] {
        let gateway = start(server).await;
        for header in [V1.to_vec(), v2(0x21, 0x11, &IPV4), v2(0x20, 0, &[])] {
            let mut wire = Wire::connect(gateway.address).await;
            wire.send(&[&header[..], &request("")].concat()).await;
            assert_eq!(wire.response().await.status, 400, "{server} {header:?}");
        }
        gateway.metric_is("gateway_handshakes_refused_total{reason=\"not_http\"}", 3.0).await;
        let (client, own) = seen(&gateway, &request("")).await;
        assert_eq!(client, own);
        assert_serving(&gateway).await;
    }
}
