//! Tests of streams under load while connections break, Redis is killed, or its master is replaced: nothing that was
//! accepted is lost, and nothing is delivered twice.

use super::{
    BROADCAST, CHAT, broadcast, connected,
    streams::{LOST, STREAMS, reader, request, requests, stage},
};
use chat_proto::chat::MessageBroadcast;
use gateway_tests::{Gateway, MASTER, Redis, Sentinels, Setup, eventually};
use prost::Message;
use redis::{AsyncConnectionConfig, RedisResult, aio::MultiplexedConnection};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::sleep;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_lose_nothing_and_double_nothing() {
    let (redis, gateway) = stage().await;
    let check = load(&gateway, &[Address(redis.port)], 0, async {
        for _ in 0..5 {
            sleep(Duration::from_millis(200)).await;
            redis.run(redis::cmd("CLIENT").arg("KILL").arg("ID").arg(reader(&redis).await)).await;
            sleep(Duration::from_millis(100)).await;
            redis.run(redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal")).await;
        }
    })
    .await;
    check.holds(&redis).await;
    assert_eq!(gateway.metric(LOST).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_killed_and_comes_back_loses_nothing_and_doubles_nothing() {
    let (mut redis, gateway) = stage().await;
    let port = redis.port;
    let at = [Address(port)];
    let check = load(&gateway, &at, 0, async {
        for _ in 0..3 {
            sleep(Duration::from_millis(300)).await;
            redis.kill().await;
            sleep(Duration::from_millis(200)).await;
            redis.restart().await;
        }
    })
    .await;
    check.holds(&redis).await;
}

/// Waits until a server says this about its replication.
pub(super) async fn replication_says(redis: &Redis, text: &str) {
    eventually(text, || async {
        let mut connection = redis.connection().await;
        let info: String = redis::cmd("INFO").arg("replication").query_async(&mut connection).await.ok()?;
        info.contains(text).then_some(())
    })
    .await;
}

/// Lets the Sentinels replace the master under load, and checks what was accepted.
async fn survives_a_failover(crash: bool) {
    let mut redis = Sentinels::start().await;
    let yaml = redis.yaml(MASTER, &format!(", {STREAMS}, stream_replicas: 1"));
    let yaml = format!("games: [{{ id: mmo }}]\n{yaml}");
    let gateway = connected(Setup { yaml, server: ALL_ANSWERS.to_owned(), ..Setup::default() }).await;
    let at = [Address(redis.servers[0].port), Address(redis.servers[1].port)];
    let check = load(&gateway, &at, 1, async {
        sleep(Duration::from_millis(500)).await;
        if crash {
            redis.servers[0].kill().await;
            replication_says(&redis.servers[1], "role:master").await;
            let new = redis.servers[1].port;
            redis.servers[0].restart_as_replica(new).await;
        } else {
            redis.fail_over().await;
            replication_says(&redis.servers[1], "role:master").await;
        }
        whole_master(redis.servers.each_ref()).await;
    })
    .await;
    check.holds(whole_master(redis.servers.each_ref()).await).await;
}

/// Waits until one of the servers is a master with a replica. On a busy machine, it may be replaced once more.
pub(super) async fn whole_master(servers: [&Redis; 2]) -> &Redis {
    eventually("a master with a replica", || async {
        for server in servers {
            let mut connection = server.connection_now().await?;
            let info: String = redis::cmd("INFO").arg("replication").query_async(&mut connection).await.ok()?;
            if info.contains("role:master") && info.contains("state=online") {
                return Some(server);
            }
        }
        None
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_loses_nothing_and_doubles_nothing() {
    survives_a_failover(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_master_loses_nothing_and_doubles_nothing() {
    survives_a_failover(true).await;
}

/// The port of a server that may be the master.
#[derive(Clone, Copy)]
pub(super) struct Address(pub(super) u16);

impl Address {
    async fn connect(self) -> RedisResult<MultiplexedConnection> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.0)).unwrap();
        let second = Some(Duration::from_secs(1));
        let config = AsyncConnectionConfig::new().set_connection_timeout(second).set_response_timeout(second);
        client.get_multiplexed_async_connection_with_config(&config).await
    }
}

/// Adds a delivery until a master has accepted it, with the same id each time.
async fn deliver(at: &[Address], replicas: usize, number: i64) {
    let mut add = redis::cmd("XADD");
    add.arg(BROADCAST).arg("*").arg("id").arg(format!("backend-{number}"));
    add.arg("payload").arg(broadcast(7, number));
    eventually("a master that accepts a delivery", || async {
        for address in at {
            let Ok(mut connection) = address.connect().await else { continue };
            let added: RedisResult<String> = add.query_async(&mut connection).await;
            let wait = redis::cmd("WAIT").arg(replicas).arg(300).to_owned();
            if added.is_ok() && wait.query_async::<usize>(&mut connection).await.is_ok_and(|n| n >= replicas) {
                return Some(());
            }
        }
        None
    })
    .await;
}

/// The keys of `server` for these tests: if Redis stays away, all that waits is refused at once, and a client that misses
/// an answer because its send queue is full would take its request for accepted.
pub(super) const ALL_ANSWERS: &str = "send_queue: 100000";

/// What was accepted.
pub(super) struct Check {
    sent: usize,
    pub(super) refused: BTreeSet<usize>,
}

impl Check {
    /// Asserts that everything that was accepted is in the stream once and in order.
    pub(super) async fn holds(&self, redis: &Redis) {
        let (numbers, duplicates) = requests(redis).await;
        assert!(numbers.is_sorted_by(|a, b| a < b), "not in order, or twice: {numbers:?}");
        let there: BTreeSet<_> = numbers.into_iter().collect();
        let missing: Vec<_> =
            (1..self.sent).filter(|number| !self.refused.contains(number) && !there.contains(number)).collect();
        if !missing.is_empty() {
            let mut connection = redis.connection().await;
            let info: String = redis::cmd("INFO").arg("replication").query_async(&mut connection).await.unwrap();
            panic!("accepted and lost: {missing:?}; {duplicates} duplicates; the server says: {info}");
        }
        assert!(self.sent - self.refused.len() > 50, "{} of {} were refused", self.refused.len(), self.sent);
    }
}

/// Sends requests and deliveries until the trouble is over, and some more. Asserts that the client receives each delivery
/// once and in order. Returns what was accepted.
pub(super) async fn load(
    gateway: &Gateway,
    at: &[Address],
    replicas: usize,
    trouble: impl Future<Output = ()>,
) -> Check {
    let mut client = gateway.client_of(7).await;
    gateway.metric_is("gateway_bus_published_total", 1.0).await;
    let (over, is_over) = tokio::sync::watch::channel(false);
    let (at, mut is_over_too) = (at.to_vec(), is_over.clone());
    let backend = tokio::spawn(async move {
        let mut number = 0;
        while !*is_over_too.borrow_and_update() {
            number += 1;
            deliver(&at, replicas, number).await;
        }
        for _ in 0..20 {
            number += 1;
            deliver(&at, replicas, number).await;
        }
        number
    });
    let client = async {
        let (mut sent, mut sequences, mut answers, mut next) = (1, BTreeMap::new(), BTreeSet::new(), 1);
        let mut rest = 50;
        let mut handle = |packet: gateway_tests::Packet, next: &mut i64| {
            if packet.gap().is_some() {
            } else if packet.flags & 1 == 1 {
                if packet.route == CHAT {
                    assert_eq!(packet.status, 5, "{packet:?}");
                    answers.insert(packet.seq);
                }
            } else {
                let delivery = MessageBroadcast::decode(&packet.payload[..]).unwrap();
                assert_eq!(delivery.message_id, *next, "a delivery is lost, double or out of order");
                *next += 1;
            }
        };
        while rest > 0 {
            sequences.insert(client.send(CHAT, &request(sent)).await, sent);
            sent += 1;
            // The reply to a heartbeat comes after all packets that were there before.
            let seq = client.send(3, b"alive?").await;
            loop {
                let packet = client.receive_any().await;
                let is_reply = packet.seq == seq && packet.flags & 1 == 1;
                handle(packet, &mut next);
                if is_reply {
                    break;
                }
            }
            sleep(Duration::from_millis(3)).await;
            rest -= usize::from(*is_over.borrow());
        }
        let total = backend.await.unwrap();
        while next <= total {
            handle(client.receive_any().await, &mut next);
        }
        let seq = client.send(3, b"alive?").await;
        loop {
            let packet = client.receive_any().await;
            let is_reply = packet.seq == seq && packet.flags & 1 == 1;
            handle(packet, &mut next);
            if is_reply {
                break;
            }
        }
        // Every request has been accepted or refused.
        eventually("all publishes are settled", || async {
            let published = gateway.metric("gateway_bus_published_total").await;
            let refused = gateway.metric("gateway_messages_dropped_total{reason=\"bus_unavailable\"}").await;
            (published + refused == sent as f64).then_some(())
        })
        .await;
        client.send(3, b"last").await;
        loop {
            let packet = client.receive_any().await;
            let is_last = packet.payload[..] == *b"last";
            handle(packet, &mut next);
            if is_last {
                break;
            }
        }
        let refused = answers.into_iter().map(|seq| sequences[&seq]).collect();
        assert_eq!(next - 1, total);
        Check { sent, refused }
    };
    let trouble = async {
        trouble.await;
        over.send_replace(true);
    };
    tokio::join!(client, trouble).0
}
