use gateway_stand_in::{Peer, gateway, http_server};
use gateway_wire::packet::ROUTE_SYSTEM;
use tokio::net::TcpSocket;

use super::*;

fn target(url: &str) -> Target {
    Target { url: url.parse().unwrap(), token: None, ca: None }
}

async fn refusal(target: &Target) -> String {
    match Connection::open(target).await {
        Ok(_) => panic!("it was accepted"),
        Err(error) => format!("{error:#}").replace(&target.url.to_string(), "URL"),
    }
}

#[tokio::test]
async fn nobody_listens() {
    // The socket is bound but does not listen, so no other process gets the port.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let refusal = refusal(&target(&format!("ws://{address}/ws"))).await;
    assert!(refusal.starts_with("cannot connect to URL: "), "{refusal}");
    assert!(refusal.ends_with("; is the gateway running? `make run` starts one"), "{refusal}");
}

/// Checks the error that follows from an HTTP response.
async fn check(response: &'static str, token: Option<&str>, why: &str) {
    let (url, task) = http_server(response).await;
    let target = Target { token: token.map(str::to_owned), ..target(&url) };
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
    let (url, task) = http_server("-ERR unknown command\r\n\r\n").await;
    let refusal = refusal(&target(&url)).await;
    assert!(refusal.starts_with("what answers at URL does not speak WebSocket: "), "{refusal}");
    task.await.unwrap();
}

#[tokio::test]
async fn a_token_must_fit_into_a_header() {
    let target = Target { token: Some("a\nb".into()), ..target("ws://127.0.0.1:1/ws") };
    assert!(refusal(&target).await.starts_with("--token: it holds a character that no HTTP header can carry"));
}

#[tokio::test]
async fn packets_and_other_messages_are_told_apart() {
    let packet = Packet::push(ROUTE_SYSTEM, 1, "hi");
    let sent = packet.clone();
    let (url, task) = gateway(async move |mut peer: Peer| {
        peer.send_message(Message::text("hello")).await;
        peer.send_message(Message::binary("short")).await;
        peer.send_message(Message::Ping("?".into())).await;
        peer.send(&sent).await;
        peer.close(4000, "bye\x07").await;
    })
    .await;
    let mut connection = Connection::open(&target(&url)).await.unwrap();
    assert_eq!(connection.receive().await, Ok(Received::NoPacket("hello".into())));
    assert_eq!(connection.receive().await, Ok(Received::NoPacket("short".into())));
    assert_eq!(connection.receive().await, Ok(Received::Packet(packet)));
    let ended = connection.receive().await.unwrap_err();
    assert_eq!(ended.to_string(), "the gateway closed the connection: 4000 a code of the game: bye\\u{7}");
    connection.close().await;
    task.await.unwrap();
}

/// On other systems the TCP reset behind the close frame may discard the close frame before it is read.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_packet_that_cannot_be_sent_brings_the_close_frame() {
    let (url, task) = gateway(async |mut peer: Peer| {
        let frame = CloseFrame { code: CloseCode::Again, reason: "send queue full".into() };
        peer.send_message(Message::Close(Some(frame))).await;
    })
    .await;
    let mut connection = Connection::open(&target(&url)).await.unwrap();
    task.await.unwrap();
    // The system's buffers may still take the first packets.
    let ended = loop {
        if let Err(ended) = connection.send(&Packet::request(1, ROUTE_SYSTEM, "")).await {
            break ended;
        }
    };
    assert_eq!(ended, Ended::Closed(Some((1013, "send queue full".into()))));
}

#[tokio::test]
async fn a_broken_connection_is_lost() {
    let (url, task) = gateway(async |peer: Peer| drop(peer)).await;
    let mut connection = Connection::open(&target(&url)).await.unwrap();
    task.await.unwrap();
    assert!(matches!(connection.receive().await, Err(Ended::Lost(_))));
}
