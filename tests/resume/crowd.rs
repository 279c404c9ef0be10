//! A crowd whose connections break again and again under load. A ledger shows that each client has received everything
//! once and in order, or was told that its session is new.

use crate::{resumes, start_with_redis};
use bytes::Bytes;
use chat_proto::chat::MessageBroadcast;
use futures_util::{SinkExt, StreamExt};
use gateway_proto::Welcome;
use gateway_tests::{Client, Publisher, chat_request, header, raise_open_files};
use gateway_wire::packet::{self, FLAG_ACK, Header};
use prost::Message as _;
use std::{env, net::SocketAddr, time::Duration};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;

/// The time in which connections break, in seconds, and the number of clients. `RESUME_CLIENTS=1000 RESUME_SECONDS=60` is
/// the large run.
fn size(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |size| size.parse().expect("a number"))
}

/// The deliveries to all clients together in a second.
const RATE: usize = 5000;

/// What one client has received. The deliveries to a user are numbered from 1 on by the publisher.
#[derive(Debug, Default)]
struct Account {
    /// The numbers of the publisher, in the order in which they arrived.
    content: Vec<u32>,
    /// The number of connections.
    connections: usize,
    /// The number of times that the session was new, with the length of `content` then.
    new: Vec<usize>,
}

/// Receives what is sent to the user until `stop`, and breaks the connection at random moments.
async fn play(address: SocketAddr, user: i32, stop: watch::Receiver<bool>) -> Account {
    let mut account = Account::default();
    let (mut token, mut seen) = (String::new(), 0_u32);
    loop {
        let path = if token.is_empty() { "/ws".to_owned() } else { format!("/ws?resume={token}&seen={seen}") };
        let mut socket = Client::handshake(address, &path).await.expect("a handshake");
        account.connections += 1;
        let Some(Ok(Message::Binary(first))) = socket.next().await else { panic!("no welcome") };
        let welcome = Welcome::decode(&first[8..]).unwrap();
        token = welcome.resume_token;
        if !welcome.resumed {
            account.new.push(account.content.len());
            seen = 0;
            let hello = [&header(1, 1)[..], &chat_request("mmo", user, "")].concat();
            socket.send(Message::Binary(hello.into())).await.unwrap();
        }
        let stops = *stop.borrow();
        // The last connection stays until nothing has come for a while.
        let life = if stops { Duration::from_secs(3600) } else { Duration::from_millis(fastrand::u64(1..2000)) };
        let end = Instant::now() + life;
        loop {
            let patience = if stops { Instant::now() + Duration::from_secs(3) } else { end };
            let Ok(message) = tokio::time::timeout_at(patience, socket.next()).await else { break };
            let Some(Ok(Message::Binary(message))) = message else { continue };
            let (header, payload) = packet::parse(message).unwrap();
            if header.is_reply() || header.seq == 0 {
                continue;
            }
            assert_eq!(header.seq, seen + 1, "user {user}: a push is missing or doubled");
            seen = header.seq;
            account.content.push(content(payload));
            if fastrand::u8(..) < 8 {
                let ack = Header { flags: FLAG_ACK, status: seen as u16, ..Header::request(2, 3) };
                // An error shows at the next message.
                let _ = socket.send(Message::Binary(ack.encode().to_vec().into())).await;
            }
        }
        if stops {
            return account;
        }
        // Half of the connections are closed, and half are left to the gateway to find out.
        if fastrand::bool() {
            drop(socket);
        } else {
            tokio::spawn(async move {
                sleep(Duration::from_secs(3)).await;
                drop(socket);
            });
        }
        if fastrand::bool() {
            sleep(Duration::from_millis(fastrand::u64(0..1000))).await;
        }
    }
}

fn content(payload: Bytes) -> u32 {
    MessageBroadcast::decode(payload).unwrap().content.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_whose_connections_break_again_and_again_loses_nothing_and_gets_nothing_twice() {
    let (clients, seconds) = (size("RESUME_CLIENTS", 200), size("RESUME_SECONDS", 8));
    // Each client may have a few connections that it has left to the gateway to find out.
    raise_open_files(8 * clients as u64);
    let (redis, gateway) = start_with_redis("messages: 4096, bytes: 1048576").await;
    let (stop, stopped) = watch::channel(false);
    let mut players = JoinSet::new();
    for user in 1..=i32::try_from(clients).unwrap() {
        let (address, stopped) = (gateway.address, stopped.clone());
        players.spawn(async move { (user, play(address, user, stopped).await) });
    }
    gateway.metric_is("gateway_messages_received_total{route=\"1\"}", clients as f64).await;
    let mut publisher = Publisher::connect(redis.port, "PUBLISH").await.unwrap();
    let (mut published, began) = (vec![0_u32; clients], Instant::now());
    let mut total = 0;
    while began.elapsed() < Duration::from_secs(seconds as u64) {
        let due = (began.elapsed().as_secs_f64() * RATE as f64) as usize;
        let batch: Vec<_> = (total..due)
            .map(|i| {
                let user = i % clients;
                published[user] += 1;
                let target_user_id = i32::try_from(user + 1).unwrap();
                let content = published[user].to_string();
                let body = MessageBroadcast { target_user_id, content, ..Default::default() }.encode_to_vec();
                ("broadcast", body)
            })
            .collect();
        total = due;
        publisher.publish(&batch).await.unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    stop.send(true).unwrap();
    let accounts = timeout(Duration::from_secs(60), players.join_all()).await.expect("the clients end");
    let (mut connections, mut new) = (0, 0);
    for (user, account) in accounts {
        let expected = published[usize::try_from(user).unwrap() - 1];
        connections += account.connections;
        // The first session of each client is new by nature.
        new += account.new.len() - 1;
        if account.new.len() == 1 {
            let complete: Vec<_> = (1..=expected).collect();
            assert!(account.content == complete, "user {user}: {} of {expected} arrived", account.content.len());
        } else {
            assert!(account.content.is_sorted_by(|a, b| a < b), "user {user}: doubled or out of order");
        }
    }
    println!("{clients} clients, {connections} connections, {total} deliveries, {new} new sessions");
    assert_eq!(new, 0, "no session was lost, as its bounds are large");
    assert!(connections > 3 * clients, "{connections} connections");
    gateway.metric_is(&resumes("resumed"), (connections - clients) as f64).await;
}
