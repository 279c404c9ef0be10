//! Tests of sessions over TLS.

use crate::start;
use futures_util::StreamExt;
use gateway_tests::{
    Certificates, Client, Gateway, Setup, certificates::connect, chat_request, in_time, root, wire::UPGRADE,
};
use serde_json::Value;
use std::{io, net::SocketAddr, path::PathBuf, process::Output, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
};
use tokio_rustls::rustls::{
    HandshakeKind, ProtocolVersion, SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use tokio_tungstenite::tungstenite::Message;

/// Chats over this version of TLS, and sends a message of many records. Then ends the session with a close frame.
async fn chat(gateway: &Gateway, certificates: &Certificates, version: &'static SupportedProtocolVersion) {
    let mut config = certificates.client(&[version]);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = connect(config, gateway.address).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
    let mut client = Client::over(stream).await;
    let seq = client.send(1, &chat_request("mmo", 7, "hello")).await;
    let reply = client.receive_any().await;
    assert_eq!((reply.seq, reply.status, reply.text()), (seq, 5, "no backend listens on game:request:mmo"));
    let large: Vec<u8> = (0..1_000_000_u32).map(|i| i as u8).collect();
    let reply = client.request(3, &large).await;
    assert!(reply.status == 0 && reply.payload == large, "the reply to a large heartbeat differs");
    client.socket.close(None).await.unwrap();
    // The gateway answers the close frame, and then says by close_notify that the stream is whole. Without that, the
    // client's library would report an error here.
    loop {
        match in_time("the end of the session", client.socket.next()).await {
            Some(Ok(Message::Ping(_) | Message::Close(_))) => {}
            Some(other) => panic!("{other:?}"),
            None => break,
        }
    }
    let mut rest = Vec::new();
    in_time("a close_notify", client.socket.get_mut().read_to_end(&mut rest)).await.expect("a close_notify");
}

#[tokio::test]
async fn a_client_chats_over_tls_1_2_and_1_3() {
    let (gateway, certificates) = start("").await;
    chat(&gateway, &certificates, &TLS12).await;
    chat(&gateway, &certificates, &TLS13).await;
    gateway.metric_is("gateway_disconnections_total{reason=\"closed\"}", 2.0).await;
}

/// Connects to the gateway through a relay that passes the client's bytes on in pieces of this size. Returns the address of
/// the relay.
async fn in_pieces(gateway: SocketAddr, piece_bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let gateway = TcpStream::connect(gateway).await.unwrap();
        gateway.set_nodelay(true).unwrap();
        let ((mut from_client, mut to_client), (mut from_gateway, mut to_gateway)) =
            (client.into_split(), gateway.into_split());
        let up = async {
            let mut piece = vec![0; piece_bytes];
            loop {
                match from_client.read(&mut piece).await {
                    Ok(length @ 1..) => to_gateway.write_all(&piece[..length]).await?,
                    _ => return io::Result::Ok(()),
                }
            }
        };
        // An error means that one end has left.
        let _ = tokio::join!(up, tokio::io::copy(&mut from_gateway, &mut to_client));
    });
    address
}

#[tokio::test]
async fn records_are_understood_however_they_arrive() {
    let (gateway, certificates) = start("").await;
    for version in [&TLS12, &TLS13] {
        for (piece_bytes, payload_bytes) in [(1, 300), (3, 1000), (100, 40_000), (20_000, 300_000)] {
            let relay = in_pieces(gateway.address, piece_bytes).await;
            let mut client = Client::over(connect(certificates.client(&[version]), relay).await.unwrap()).await;
            let payload: Vec<u8> = (0..payload_bytes).map(|i| i as u8).collect();
            let reply = client.request(3, &payload).await;
            assert!(reply.payload == payload, "{version:?}: the reply to pieces of {piece_bytes} bytes differs");
        }
    }
}

#[tokio::test]
async fn keys_are_changed_within_a_session() {
    let (gateway, certificates) = start("").await;
    let mut client = Client::over(connect(certificates.client(&[&TLS13]), gateway.address).await.unwrap()).await;
    for _ in 0..3 {
        // This asks the gateway for new keys, too. Its next records would be refused with the old ones.
        client.socket.get_mut().get_mut().1.refresh_traffic_keys().unwrap();
        client.assert_alive().await;
        client.assert_alive().await;
    }
}

#[tokio::test]
async fn a_client_that_comes_back_resumes_its_tls_session() {
    let (gateway, certificates) = start("").await;
    for (version, name) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let config = certificates.client(&[version]);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut client = Client::over(connect(config.clone(), gateway.address).await.unwrap()).await;
            client.assert_alive().await;
            kinds.push(client.socket.get_ref().get_ref().1.handshake_kind());
        }
        assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)], "{name:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_without_close_notify_just_goes() {
    let (gateway, certificates) = start("").await;
    let mut client = certificates.client_of(&gateway).await;
    client.assert_alive().await;
    drop(client);
    gateway.metric_is("gateway_disconnections_total{reason=\"gone\"}", 1.0).await;
    gateway.metric_is("gateway_sessions", 0.0).await;
}

#[tokio::test]
async fn a_refused_upgrade_is_answered_over_tls() {
    let (gateway, certificates) = start("").await;
    let mut stream = certificates.connect(gateway.address).await.unwrap();
    stream.write_all(UPGRADE.replace("/ws", "/").as_bytes()).await.unwrap();
    let mut answer = String::new();
    in_time("the answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
}

/// Returns the path of `gateway-client`, as cargo built it.
fn gateway_client() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().with_file_name("gateway-client")
}

#[tokio::test]
async fn gateway_client_speaks_wss_with_the_authority_that_it_is_told_to_trust() {
    let (gateway, certificates) = start("").await;
    let url = format!("wss://localhost:{}/ws", gateway.address.port());
    let ping = |authority: &[&str]| {
        let mut command = Command::new(gateway_client());
        command.args(["ping", "--count", "2", "--interval-ms", "1", "--url", &url]).args(authority);
        command.current_dir(root()).kill_on_drop(true);
        async move { in_time("the client", command.output()).await.unwrap() }
    };
    let good = ping(&["--ca", certificates.authority().to_str().unwrap()]).await;
    let printed = String::from_utf8_lossy(&good.stdout);
    assert!(good.status.success() && printed.contains(&format!("PING {url}")), "{good:?}");
    let bad = ping(&[]).await;
    let why = String::from_utf8_lossy(&bad.stderr);
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    assert!(why.contains("UnknownIssuer") && why.contains("--ca"), "{why}");
    gateway.metric_is("gateway_handshakes_refused_total{reason=\"tls_failed\"}", 1.0).await;
}

/// Returns the resident memory that each of `count` idle sessions takes in the gateway, in bytes.
async fn idle_bytes<F: Future>(gateway: &Gateway, count: usize, connect: impl Fn() -> F) -> u64 {
    // The first sessions pay for what all share.
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(connect().await);
    }
    let before = gateway.resident_bytes();
    for _ in 0..count {
        clients.push(connect().await);
    }
    gateway.metric_is("gateway_sessions", clients.len() as f64).await;
    gateway.resident_bytes().saturating_sub(before) / count as u64
}

#[tokio::test]
async fn an_idle_session_takes_at_most_6_kib_more_with_tls() {
    let count = std::env::var("TLS_SESSIONS").map_or(400, |count| count.parse().unwrap());
    let (gateway, certificates) = start(", ping_interval_s: 500, idle_timeout_s: 1000").await;
    let certificates = Arc::new(certificates);
    let secure = idle_bytes(&gateway, count, || certificates.client_of(&gateway)).await;
    let gateway = Gateway::start(Setup::server("ping_interval_s: 500, idle_timeout_s: 1000")).await;
    let plain = idle_bytes(&gateway, count, || gateway.client()).await;
    println!("an idle session takes {plain} bytes, and {secure} with TLS");
    assert!(secure <= plain + 6 * 1024, "an idle session takes {plain} bytes, and {secure} with TLS");
}

/// Runs `gateway-client load` with these arguments over TLS, and returns its output.
async fn load(gateway: &Gateway, arguments: &str) -> Output {
    let url = format!("wss://localhost:{}/ws", gateway.address.port());
    let mut command = Command::new(gateway_client());
    command.arg("load").args(arguments.split(' ')).args(["--url", &url, "--warmup-s", "0", "--format", "json"]);
    command.kill_on_drop(true);
    in_time("the load", command.output()).await.unwrap()
}

#[tokio::test]
async fn the_load_generator_follows_every_message_over_tls() {
    let (gateway, certificates) = start("").await;
    let authority = certificates.authority();
    // Heartbeats of many to a record, and of many records each.
    for (heartbeats, clients) in [("--pipeline 16 --payload 64", 20), ("--pipeline 4 --payload 100000", 3)] {
        let arguments = format!("ping {heartbeats} --clients {clients} --duration-s 0.3 --ca {}", authority.display());
        let output = load(&gateway, &arguments).await;
        assert!(output.status.success(), "{heartbeats}: {output:?}");
        let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(figures["lost"], 0, "{heartbeats}");
        assert!(figures["messages"].as_u64().unwrap() > 0, "{heartbeats}: {figures}");
    }
    gateway.metric_is("gateway_connections_total", 23.0).await;
    let output = load(&gateway, "idle --clients 1").await;
    let why = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(why.contains("UnknownIssuer") && why.contains("--ca"), "{why}");
}
