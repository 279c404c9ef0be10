//! The comparison is fair only if the baseline does the gateway's job. It has to send the same packets to clients and
//! the same messages to Redis.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use chat_proto::chat::{ChatResponse, MessageBroadcast};
use gateway_tests::{Client, Gateway, Packet, Redis, Setup, chat_request};
use prost::Message as _;
use std::{net::SocketAddr, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// Starts the baseline.
async fn baseline(redis: &Redis) -> (Child, SocketAddr) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gateway-baseline"))
        .args(["127.0.0.1:0", &format!("127.0.0.1:{}", redis.port)])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let line = BufReader::new(child.stdout.take().unwrap()).lines().next_line().await.unwrap().unwrap();
    (child, line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// Plays one conversation. Returns the packets that two clients get and the messages that backends get.
async fn seen(address: SocketAddr, redis: &Redis) -> (Vec<Packet>, Vec<(String, Vec<u8>)>) {
    let mut published = redis.observe().await;
    let (mut client, mut other) = (Client::connect(address).await, Client::connect(address).await);
    let request = chat_request("mmo", 7, "hi");
    let mut packets = vec![
        client.request(3, b"a heartbeat").await,
        client.request(3, b"").await,
        client.request(2, b"no plugin").await,
        client.request(1, b"\x0a\x7f").await,
        client.request(1, &chat_request("", 7, "no game")).await,
        client.request(1, &chat_request("mmo", -7, "no user")).await,
        client.request(1, &chat_request("a b", 7, "no game's id")).await,
    ];
    client.send_message(b"short".to_vec()).await;
    packets.push(client.receive().await);
    let mut messages = Vec::new();
    for client in [&mut client, &mut other] {
        client.send(1, &request).await;
        messages.push(published.next_with_topic().await);
    }
    packets.push(client.request(1, &chat_request("mmo", 8, "somebody else")).await);
    let to_user = ChatResponse { target_user_id: 7, error_message: "x".repeat(300), ..Default::default() };
    let session = client.welcome.session_id.clone();
    let to_session = ChatResponse { target_user_id: 9, target_session_id: session, ..Default::default() };
    let broadcast = MessageBroadcast { target_user_id: 7, message_id: 5, content: "hi".into(), ..Default::default() };
    let to_nobody = ChatResponse { target_user_id: 8, ..Default::default() };
    for message in [to_nobody.encode_to_vec(), to_user.encode_to_vec(), broadcast.encode_to_vec()] {
        redis.publish("broadcast", &message).await;
    }
    redis.publish("broadcast", &to_session.encode_to_vec()).await;
    for _ in 0..2 {
        packets.extend([client.receive().await, other.receive().await]);
    }
    let last = client.receive().await;
    assert_eq!(ChatResponse::decode(last.payload.clone()).unwrap(), to_session);
    // Session ids and the words of a refusal differ.
    packets.push(Packet { payload: Default::default(), ..last });
    for packet in packets.iter_mut().filter(|packet| packet.status != 0) {
        packet.payload.clear();
    }
    (packets, messages)
}

#[tokio::test]
async fn the_baseline_and_the_gateway_say_the_same() {
    let redis = Redis::start().await;
    let (child, address) = baseline(&redis).await;
    let of_baseline = seen(address, &redis).await;
    drop(child);
    let redis = Redis::start().await;
    let yaml = format!("redis: {{ addr: \"127.0.0.1:{}\" }}", redis.port);
    let gateway = Gateway::start(Setup { yaml, ..Setup::default() }).await;
    redis.subscribers_are("broadcast", 1).await;
    assert_eq!(seen(gateway.address, &redis).await, of_baseline);
}
