use bytes::Bytes;
use chat_proto::chat::{ChatRequest, ChatResponse};
use clap::Parser;
use gateway_stand_in::{Peer, gateway};
use gateway_wire::packet::{Packet, ROUTE_CHAT, ROUTE_CONTROL, ROUTE_SYSTEM};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use super::*;

#[path = "fanout_tests.rs"]
mod fanout;

/// A command for Redis.
fn command(parts: &[&[u8]]) -> Vec<u8> {
    let mut command = Vec::new();
    gateway_wire::resp::command(&mut command, parts);
    command
}

/// Runs a load of one client. Returns the JSON, and the error if there was one.
async fn load(url: &str, arguments: &str) -> (String, Option<String>) {
    load_of(1, url, arguments).await
}

/// Runs a load of some clients.
async fn load_of(clients: usize, url: &str, arguments: &str) -> (String, Option<String>) {
    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        options: Options,
    }
    let all = format!("load {arguments} --url {url} --clients {clients} --format json --warmup-s 0");
    let Arguments { options } = Arguments::try_parse_from(all.split(' ')).unwrap();
    match measure(&Plan::new(options.mode).unwrap()).await {
        Ok((report, verdict)) => (report, verdict.err().map(|error| error.to_string())),
        Err(error) => (String::new(), Some(format!("{error:#}"))),
    }
}

#[track_caller]
fn figure(json: &str, key: &str) -> f64 {
    let (_, rest) = json.split_once(&format!("\"{key}\":")).unwrap();
    rest.split([',', '}']).next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn heartbeats_that_come_back_are_counted_and_pings_answered() {
    let (url, task) = gateway(async |mut peer: Peer| {
        peer.welcome("s").await;
        peer.send_message(Message::Ping("there?".into())).await;
        let echoed = peer.echo_all().await;
        (echoed, peer.pongs)
    })
    .await;
    let (json, error) = load(&url, "ping --duration-s 0.3 --pipeline 4 --payload 200").await;
    assert_eq!(error, None);
    let (echoed, pongs) = task.await.unwrap();
    assert_eq!(pongs, 1);
    let messages = figure(&json, "messages");
    assert!(messages > 0.0 && messages <= echoed as f64, "{json}, {echoed}");
    assert!(json.starts_with("{\"mode\":\"ping\",\"clients\":1,\"pipeline\":4,\"payload_bytes\":200,"), "{json}");
    assert!(figure(&json, "latency_max_ms") > 0.0, "{json}");
}

#[tokio::test]
async fn what_is_wrong_with_replies_is_told() {
    let (url, task) = gateway(async |mut peer: Peer| {
        peer.welcome("s").await;
        // Of the 20 scheduled messages, 0 is refused, 1 is lost, 2 is changed and so lost, 3 is doubled, 4 and 5 change
        // places.
        let mut requests = Vec::new();
        for _ in 0..20 {
            requests.push(peer.request().await);
        }
        let reply = |index: usize| requests[index].reply(0, requests[index].payload.clone());
        peer.send(&requests[0].reply(7, "slow down")).await;
        peer.send(&requests[2].reply(0, "something else")).await;
        for index in [3, 3, 5, 4].into_iter().chain(6..20) {
            peer.send(&reply(index)).await;
        }
        peer.closed().await
    })
    .await;
    let (json, error) = load(&url, "ping --duration-s 0.2 --rate 100").await;
    assert_eq!(task.await.unwrap(), Some(1000));
    let expected = "of 20 messages 2 lost, 1 doubled, 1 reordered, 1 refused, 0 miscounted; the first lost one of user 1 is \
                    number 1 of 20; refused: status 7: slow down";
    assert_eq!(error.unwrap(), expected);
    assert_eq!(figure(&json, "stray"), 1.0);
}

#[tokio::test]
async fn a_session_that_ends_fails_the_run() {
    let (url, task) = gateway(async |mut peer: Peer| {
        peer.welcome("s").await;
        peer.close(1001, "going away").await;
    })
    .await;
    let (_, error) = load(&url, "idle --duration-s 60").await;
    assert!(error.unwrap().starts_with("a session: the gateway closed the connection: 1001 going away"));
    task.await.unwrap();
}

#[tokio::test]
async fn idle_sessions_are_kept_and_left_in_order() {
    let (url, task) = gateway(async |mut peer: Peer| {
        peer.welcome("s").await;
        peer.closed().await
    })
    .await;
    let (json, error) = load(&url, "idle --duration-s 0.1").await;
    assert_eq!((error, task.await.unwrap()), (None, Some(1000)));
    assert!(figure(&json, "idle_seconds") >= 0.1, "{json}");
}

#[tokio::test]
async fn without_a_welcome_there_is_no_load() {
    let (url, task) = gateway(async |mut peer: Peer| peer.send(&Packet::push(ROUTE_SYSTEM, 1, "hi")).await).await;
    let (_, error) = load(&url, "idle").await;
    assert!(error.unwrap().ends_with("the first packet is not the Welcome; is this a gateway?"));
    task.await.unwrap();
}

/// A stand-in for Redis, once the run has connected to it.
struct Redis {
    subscriber: TcpStream,
    publisher: Option<TcpStream>,
}

/// Accepts a subscriber, and a publisher if the run publishes.
async fn redis(publishes: bool) -> (String, JoinHandle<Redis>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accept = async move |expected: Vec<u8>, answer: &[u8]| {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut received = vec![0; expected.len()];
        tcp.read_exact(&mut received).await.unwrap();
        assert_eq!(received, expected);
        tcp.write_all(answer).await.unwrap();
        tcp
    };
    let connected = tokio::spawn(async move {
        let subscribe = command(&[b"SUBSCRIBE", b"game:request:g"]);
        let subscriber = accept(subscribe, b"*3\r\n$9\r\nsubscribe\r\n$14\r\ngame:request:g\r\n:1\r\n").await;
        let publish = [command(&[b"PING"]), command(&[b"CLIENT", b"REPLY", b"OFF"])].concat();
        let publisher = if publishes { Some(accept(publish, b"+PONG\r\n").await) } else { None };
        Redis { subscriber, publisher }
    });
    (address, connected)
}

impl Redis {
    /// Sends the payload of a request to the subscriber, as if the gateway had published it.
    async fn relay(&mut self, request: &Packet) {
        let message = command(&[b"message", b"game:request:g", &request.payload]);
        self.subscriber.write_all(&message).await.unwrap();
    }

    /// Waits for the next ChatResponse of 70 bytes that is published on `broadcast`.
    async fn delivery(&mut self) -> Bytes {
        let head = b"*3\r\n$7\r\nPUBLISH\r\n$9\r\nbroadcast\r\n$70\r\n";
        let mut command = vec![0; head.len() + 70 + 2];
        self.publisher.as_mut().unwrap().read_exact(&mut command).await.unwrap();
        assert!(command.starts_with(head));
        Bytes::from(command).slice(head.len()..head.len() + 70)
    }
}

#[tokio::test]
async fn requests_are_followed_to_redis() {
    let (address, redis) = redis(false).await;
    let (url, task) = gateway(async |mut peer: Peer| {
        let mut redis = redis.await.unwrap();
        peer.welcome("s").await;
        let mut requests = Vec::new();
        for _ in 0..10 {
            requests.push(peer.request().await);
        }
        // Message 0 is refused, 1 is lost, 2 is doubled, 4 and 3 change places.
        peer.send(&requests[0].reply(7, "slow down")).await;
        for index in [2, 2, 4, 3].into_iter().chain(5..10) {
            redis.relay(&requests[index]).await;
        }
        redis.relay(&Packet::request(1, ROUTE_CHAT, "of somebody else")).await;
        let code = peer.closed().await;
        (requests, code)
    })
    .await;
    let arguments = format!("request --duration-s 0.1 --rate 100 --game g --redis {address}");
    let (json, error) = load(&url, &arguments).await;
    let (requests, code) = task.await.unwrap();
    assert_eq!(code, Some(1000));
    let expected = "of 10 messages 1 lost, 1 doubled, 1 reordered, 1 refused, 0 miscounted; the first lost one of user 1 is \
                    number 1 of 10; refused: status 7: slow down";
    assert_eq!(error.unwrap(), expected);
    assert_eq!(figure(&json, "stray"), 1.0);
    for (number, packet) in requests.into_iter().enumerate() {
        assert_eq!((packet.header.seq, packet.header.route), (number as u32, ROUTE_CHAT));
        assert_eq!(packet.payload.len(), 64);
        let base = ChatRequest::decode(packet.payload).unwrap().base.unwrap();
        assert_eq!((base.game_id.as_str(), base.user_id), ("g", 1));
    }
}

#[tokio::test]
async fn deliveries_begin_when_the_session_is_bound() {
    let (address, redis) = redis(true).await;
    let (url, task) = gateway(async |mut peer: Peer| {
        let mut redis = redis.await.unwrap();
        peer.welcome("s").await;
        redis.relay(&peer.request().await).await;
        // The delivery counter leaves 3 out.
        for counter in [1, 2, 4, 5] {
            peer.send(&Packet::push(ROUTE_CHAT, counter, redis.delivery().await)).await;
            peer.send(&Packet::push(ROUTE_CONTROL, 0, "outside of the counter")).await;
        }
        peer.closed().await
    })
    .await;
    let arguments = format!("deliver --duration-s 0.04 --rate 100 --payload 70 --game g --redis {address}");
    let (json, error) = load(&url, &arguments).await;
    assert_eq!(task.await.unwrap(), Some(1000));
    assert_eq!(error.unwrap(), "of 4 messages 0 lost, 0 doubled, 0 reordered, 0 refused, 1 miscounted");
    assert_eq!(figure(&json, "stray"), 0.0);
}

#[tokio::test]
async fn in_the_whole_loop_the_backend_answers() {
    let (address, redis) = redis(true).await;
    let (url, task) = gateway(async |mut peer: Peer| {
        let mut redis = redis.await.unwrap();
        peer.welcome("s").await;
        for counter in 1..=20 {
            redis.relay(&peer.request().await).await;
            let delivery = redis.delivery().await;
            assert_eq!(ChatResponse::decode(delivery.clone()).unwrap().target_user_id, 1);
            peer.send(&Packet::push(ROUTE_CHAT, counter, delivery)).await;
        }
        peer.closed().await
    })
    .await;
    let arguments = format!("loop --duration-s 0.2 --rate 100 --payload 70 --game g --redis {address}");
    let (json, error) = load(&url, &arguments).await;
    assert_eq!((error, task.await.unwrap()), (None, Some(1000)));
    assert!(figure(&json, "latency_max_ms") > 0.0, "{json}");
}
