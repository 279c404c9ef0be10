use tokio::net::TcpListener;

use super::*;
use crate::packet::ROUTE_SYSTEM;
use crate::test_gateway::{Peer, gateway, http_server};

async fn refusal(target: &Target) -> String {
    match Connection::open(target).await {
        Ok(_) => panic!("it was accepted"),
        Err(error) => format!("{error:#}").replace(&target.url.to_string(), "URL"),
    }
}

#[tokio::test]
async fn nobody_listens() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let target = Target { url: format!("ws://{address}/ws").parse().unwrap(), token: None };
    let refusal = refusal(&target).await;
    assert!(refusal.starts_with("cannot connect to URL: "), "{refusal}");
    assert!(refusal.ends_with("; is the gateway running? `make run` starts one"), "{refusal}");
}

/// Checks the refusal that follows from an HTTP response.
async fn check(response: &'static str, token: Option<&str>, why: &str) {
    let (mut target, task) = http_server(response).await;
    target.token = token.map(str::to_owned);
    assert_eq!(refusal(&target).await, why);
    let head = task.await.unwrap();
    assert!(head.starts_with("GET /ws HTTP/1.1\r\n"), "{head}");
    let bearer = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer "));
    assert_eq!(bearer, token);
}

#[tokio::test]
async fn a_refusal_says_what_would_mend_it() {
    let unauthorized = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
    check(unauthorized, None, "URL asks for a token (HTTP 401); give one with --token").await;
    check(unauthorized, Some("T0"), "URL does not accept this token (HTTP 401)").await;
    let not_found = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    check(not_found, None, "URL has nothing at /ws (HTTP 404); a gateway's path is /ws").await;
    let busy = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 6\r\n\r\nfull\x1b\n";
    check(busy, None, "URL refused the upgrade (HTTP 503): full\\u{1b}").await;
}

#[tokio::test]
async fn other_servers_are_not_mistaken_for_gateways() {
    let (target, task) = http_server("-ERR unknown command\r\n\r\n").await;
    let refusal = refusal(&target).await;
    assert!(refusal.starts_with("what answers at URL does not speak WebSocket: "), "{refusal}");
    task.await.unwrap();
}

#[tokio::test]
async fn a_token_must_fit_into_a_header() {
    let target = Target { url: "ws://127.0.0.1:1/ws".parse().unwrap(), token: Some("a\nb".into()) };
    assert!(refusal(&target).await.starts_with("--token: it holds a character that no HTTP header can carry"));
}

#[tokio::test]
async fn packets_and_other_messages_are_told_apart() {
    let packet = Packet::push(1, ROUTE_SYSTEM, "hi");
    let sent = packet.clone();
    let (target, task) = gateway(async move |mut peer: Peer| {
        peer.send_message(Message::text("hello")).await;
        peer.send_message(Message::binary("short")).await;
        peer.send_message(Message::Ping("?".into())).await;
        peer.send(&sent).await;
        peer.close(4000, "bye\x07").await;
    })
    .await;
    let mut connection = Connection::open(&target).await.unwrap();
    assert_eq!(connection.receive().await, Ok(Received::NoPacket("hello".into())));
    assert_eq!(connection.receive().await, Ok(Received::NoPacket("short".into())));
    assert_eq!(connection.receive().await, Ok(Received::Packet(packet)));
    let ended = connection.receive().await.unwrap_err();
    assert_eq!(
        ended.to_string(),
        "the gateway closed the connection: 4000 (no code that this client knows): bye\\u{7}"
    );
    connection.close().await;
    task.await.unwrap();
}

/// On other systems the reset that follows the close frame may discard it before it is read.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_packet_that_cannot_be_sent_brings_the_close_frame() {
    let (target, task) = gateway(async |mut peer: Peer| {
        let frame = CloseFrame { code: CloseCode::Again, reason: "send queue full".into() };
        peer.send_message(Message::Close(Some(frame))).await;
    })
    .await;
    let mut connection = Connection::open(&target).await.unwrap();
    task.await.unwrap();
    // The first packets may still find room in the system's buffers.
    let ended = loop {
        if let Err(ended) = connection.send(&Packet::request(1, ROUTE_SYSTEM, "")).await {
            break ended;
        }
    };
    assert_eq!(ended, Ended::Closed(Some((1013, "send queue full".into()))));
}

#[tokio::test]
async fn a_broken_connection_is_lost() {
    let (target, task) = gateway(async |peer: Peer| drop(peer)).await;
    let mut connection = Connection::open(&target).await.unwrap();
    task.await.unwrap();
    assert!(matches!(connection.receive().await, Err(Ended::Lost(_))));
}
