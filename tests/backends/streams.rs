//! Tests of topics that are streams: what was accepted is in the stream once, and what is in the stream is delivered once.

use super::{BROADCAST, CHAT, REQUESTS, assert_pushed, broadcast, connected};
use chat_proto::chat::{ChatRequest, MessageBroadcast};
use gateway_tests::{
    Bound, Client, Connections, Gateway, MASTER, Proxy, Redis, Sentinels, Setup, chat_request, eventually,
};
use prost::Message;
use redis::{AsyncConnectionConfig, RedisResult, aio::MultiplexedConnection};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::{Instant, sleep};

const STREAMS: &str = "streams: [\"game:request:*\", broadcast]";
const LAG: &str = "gateway_bus_stream_lag_entries{topic=\"broadcast\"}";
const READ: &str = "gateway_bus_stream_entries_total";
const DUPLICATES: &str = "gateway_bus_stream_duplicates_total";
const LOST: &str = "gateway_bus_stream_lost_total";
const MALFORMED: &str = "gateway_messages_dropped_total{reason=\"bus_entry_malformed\"}";

type Entry = (String, Vec<(String, Vec<u8>)>);

/// Starts a Redis with AOF, which loses nothing that it has answered, and a gateway whose topics are streams.
async fn stage() -> (Redis, Gateway) {
    let redis = Redis::start_with_arguments(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let gateway = connected(Setup::redis_with(&redis, STREAMS)).await;
    (redis, gateway)
}

/// Adds an entry as a backend does that uses no ids.
async fn add(redis: &Redis, payload: &[u8]) {
    redis.run(redis::cmd("XADD").arg(BROADCAST).arg("*").arg("payload").arg(payload)).await;
}

async fn entries(redis: &Redis, stream: &str) -> Vec<Entry> {
    let mut command = redis::cmd("XRANGE");
    command.arg(stream).arg("-").arg("+");
    command.query_async(&mut redis.connection().await).await.unwrap()
}

/// Returns the numbers of the requests in the stream, without the duplicates that the rule for readers finds, and the
/// number of these.
async fn requests(redis: &Redis) -> (Vec<usize>, usize) {
    let (mut last, mut numbers, mut duplicates) = (BTreeMap::new(), Vec::new(), 0);
    for (_, fields) in entries(redis, REQUESTS).await {
        let [(id, own), (payload, request)] = &fields[..] else { panic!("{fields:?}") };
        assert_eq!((id.as_str(), payload.as_str()), ("id", "payload"));
        let own = String::from_utf8(own.clone()).unwrap();
        let (writer, number) = own.rsplit_once('-').unwrap();
        assert_eq!(writer.len(), 36, "{own}");
        let number: u64 = number.parse().unwrap();
        let last = last.entry(writer.to_owned()).or_insert(0);
        if number <= *last {
            duplicates += 1;
            continue;
        }
        *last = number;
        let request = ChatRequest::decode(&request[..]).unwrap();
        // The request that bound the session has no number.
        numbers.extend(request.content.parse::<usize>());
    }
    (numbers, duplicates)
}

fn request(number: usize) -> Vec<u8> {
    chat_request("mmo", 7, &number.to_string())
}

/// Sends a request, and returns the status and the text of its refusal.
async fn refusal(client: &mut Client, number: usize) -> (u16, String) {
    let seq = client.send(CHAT, &request(number)).await;
    let packet = client.receive_any().await;
    assert_eq!((packet.seq, packet.flags), (seq, 1), "{packet:?}");
    (packet.status, packet.text().to_owned())
}

/// Waits until the reader waits for entries, and returns the number of its connection.
async fn reader(redis: &Redis) -> u64 {
    eventually("a connection that reads streams", || async {
        let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut redis.connection().await).await.ok()?;
        let line = list.lines().find(|line| line.contains("cmd=xread"))?;
        line.strip_prefix("id=")?.split(' ').next()?.parse().ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_deliveries_pass_over_streams_in_order() {
    let redis = Redis::start().await;
    // What was there before is not delivered.
    add(&redis, &broadcast(7, 99)).await;
    let gateway = connected(Setup::redis_with(&redis, STREAMS)).await;
    let mut client = gateway.client_of(7).await;
    for number in 0..100 {
        client.send(CHAT, &request(number)).await;
    }
    gateway.metric_is("gateway_bus_published_total", 101.0).await;
    let (numbers, duplicates) = requests(&redis).await;
    assert_eq!((numbers, duplicates), ((0..100).collect(), 0));
    for number in 1..=100 {
        add(&redis, &broadcast(7, number)).await;
    }
    for number in 1..=100 {
        assert_pushed(&mut client, number, &broadcast(7, number.into())).await;
    }
    gateway.metric_is(LAG, 0.0).await;
    assert_eq!((gateway.metric(READ).await, gateway.metric(LOST).await, client.unheard), (100.0, 0.0, 0));
    redis.subscribers_are(BROADCAST, 0).await;
    assert_eq!(gateway.get("/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_and_entries_without_a_payload_or_over_the_limit_are_dropped_and_counted() {
    let redis = Redis::start().await;
    let server = "max_message_bytes: 1024".to_owned();
    let gateway = connected(Setup { server, ..Setup::redis_with(&redis, STREAMS) }).await;
    let mut client = gateway.client_of(7).await;
    let mut connection = redis.connection().await;
    let xadd = |fields: &[(&str, &[u8])]| redis::cmd("XADD").arg(BROADCAST).arg("*").arg(fields).to_owned();
    let one = broadcast(7, 1);
    for fields in [
        &[("id", &b"backend-1"[..]), ("payload", &one)][..],
        &[("id", b"backend-1"), ("payload", &one)],
        &[("body", &one)],
        &[("payload", &[0; 1025])],
        &[("payload", &broadcast(7, 2)), ("id", b"no number")],
        &[("payload", &broadcast(7, 3)), ("id", b"backend-2"), ("more", b"")],
    ] {
        xadd(fields).exec_async(&mut connection).await.unwrap();
    }
    for number in 1..=3 {
        assert_pushed(&mut client, number, &broadcast(7, number.into())).await;
    }
    let counts = [DUPLICATES, MALFORMED, "gateway_messages_dropped_total{reason=\"bus_message_too_large\"}", READ];
    for (count, value) in counts.into_iter().zip([1.0, 1.0, 1.0, 6.0]) {
        assert_eq!(gateway.metric(count).await, value, "{count}");
    }
    let line = gateway.logged("entry of a stream dropped").await;
    assert_eq!(line["fields"]["stream"], BROADCAST, "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_refuses_an_entry_for_good() {
    let (redis, gateway) = stage().await;
    let mut client = gateway.client().await;
    redis.run(redis::cmd("SET").arg(REQUESTS).arg("x")).await;
    let text = "the bus refused the message: its topic is no stream, but another kind of key";
    assert_eq!(refusal(&mut client, 1).await, (5, text.to_owned()));
    redis.run(redis::cmd("DEL").arg(REQUESTS)).await;
    redis.run(redis::cmd("ACL").arg("SETUSER").arg("default").arg("-xadd")).await;
    let text = "the bus refused the message: the gateway may not write to its topic";
    assert_eq!(refusal(&mut client, 2).await, (5, text.to_owned()));
    redis.run(redis::cmd("ACL").arg("SETUSER").arg("default").arg("+xadd")).await;
    client.send(CHAT, &request(3)).await;
    gateway.metric_is("gateway_bus_published_total", 1.0).await;
    assert_eq!(requests(&redis).await, (vec![3], 0));
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_too_few_replicas_have_is_not_accepted() {
    let redis = Redis::start().await;
    let keys = format!("{STREAMS}, stream_replicas: 1");
    let gateway = connected(Setup::redis_with(&redis, &keys)).await;
    let mut client = gateway.client().await;
    let text = "too few replicas of the bus confirmed the message: it may or may not have been taken".to_owned();
    let began = Instant::now();
    assert_eq!(refusal(&mut client, 1).await, (5, text.clone()));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    eventually("the reason in /readyz", || async {
        let (status, report) = gateway.get("/readyz").await;
        (status == 503 && report.contains("fewer than 1 replicas confirm entries")).then_some(())
    })
    .await;
    // The grace period is over, so the next one waits only once.
    let began = Instant::now();
    assert_eq!(refusal(&mut client, 2).await, (5, text));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let replica = Redis::start().await;
    replica.replicate(Some(&redis)).await;
    eventually("readiness", || async { (gateway.get("/readyz").await.0 == 200).then_some(()) }).await;
    client.send(CHAT, &request(3)).await;
    gateway.metric_is("gateway_bus_published_total", 1.0).await;
    assert_eq!(requests(&replica).await.0, [1, 2, 3]);
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_answer_is_lost_is_sent_again_with_the_same_id() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let yaml = format!("games: [{{ id: mmo }}]\nredis: {{ addr: \"127.0.0.1:{}\", {STREAMS} }}", proxy.port);
    let gateway = connected(Setup { yaml, ..Setup::default() }).await;
    let mut client = gateway.client_of(7).await;
    gateway.metric_is("gateway_bus_published_total", 1.0).await;
    reader(&redis).await;
    proxy.drop_silently(Connections::Publishing, Bound::ToGateway);
    client.send(CHAT, &request(1)).await;
    gateway.metric_is("gateway_bus_published_total", 2.0).await;
    client.send(CHAT, &request(2)).await;
    gateway.metric_is("gateway_bus_published_total", 3.0).await;
    let (numbers, duplicates) = requests(&redis).await;
    assert_eq!((numbers, duplicates), (vec![1, 2], 1));
    // The reader's connection was dead as well, and is found.
    add(&redis, &broadcast(7, 1)).await;
    assert_pushed(&mut client, 1, &broadcast(7, 1)).await;
    client.assert_alive().await;
    assert_eq!((client.unheard, gateway.metric(LOST).await), (0, 0.0));
}

/// Adds 300 entries, and removes all except the last 100 before anybody can read them.
async fn add_too_many(redis: &Redis) {
    let mut at_once = redis::pipe();
    at_once.atomic();
    for number in 1..=300 {
        at_once.cmd("XADD").arg(BROADCAST).arg("*").arg("payload").arg(broadcast(7, number)).ignore();
    }
    at_once.cmd("XTRIM").arg(BROADCAST).arg("MAXLEN").arg(100).ignore();
    at_once.query_async::<()>(&mut redis.connection().await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_are_removed_before_they_are_read_are_counted_and_sessions_are_told() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let yaml = format!("games: [{{ id: mmo }}]\nredis: {{ addr: \"127.0.0.1:{}\", {STREAMS} }}", proxy.port);
    let gateway = connected(Setup { yaml, ..Setup::default() }).await;
    let mut client = gateway.client_of(7).await;
    // The gap is told after the entries, because the reader is connected.
    add_too_many(&redis).await;
    for number in 1..=100 {
        assert_pushed(&mut client, number, &broadcast(7, i64::from(number) + 200)).await;
    }
    gateway.metric_is(LOST, 200.0).await;
    client.assert_alive().await;
    assert_eq!(client.gaps.len(), 1);
    // The reader is away.
    reader(&redis).await;
    proxy.drop_silently(Connections::Publishing, Bound::ToGateway);
    add_too_many(&redis).await;
    for number in 1..=100 {
        assert_pushed(&mut client, number + 100, &broadcast(7, i64::from(number) + 200)).await;
    }
    gateway.metric_is(LOST, 400.0).await;
    assert_eq!((client.gaps.len(), gateway.metric("gateway_bus_gaps_total").await), (2, 2.0));
    gateway.metric_is(LAG, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_empty_is_read_from_its_start() {
    let mut redis = Redis::start().await;
    let gateway = connected(Setup::redis_with(&redis, STREAMS)).await;
    let mut client = gateway.client_of(7).await;
    for number in 1..=10 {
        add(&redis, &broadcast(7, number)).await;
        assert_pushed(&mut client, number as u32, &broadcast(7, number)).await;
    }
    redis.kill().await;
    redis.restart().await;
    for number in 11..=20 {
        add(&redis, &broadcast(7, number)).await;
    }
    for number in 11..=20 {
        assert_pushed(&mut client, number as u32, &broadcast(7, number)).await;
    }
    client.assert_alive().await;
    assert_eq!(gateway.metric(READ).await, 20.0);
    // The subscription has a gap, and the stream has one if its reader comes back before the first entry.
    assert!((1..=2).contains(&client.gaps.len()), "{:?}", client.gaps);
    gateway.metric_is(LAG, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lag_rises_while_there_is_more_than_the_gateway_has_read_and_falls_back() {
    const ENTRIES: usize = 60_000;
    let redis = Redis::start().await;
    let gateway = connected(Setup::redis_with(&redis, &format!("{STREAMS}, probe_interval_ms: 100"))).await;
    gateway.metric_is(LAG, 0.0).await;
    let mut burst = redis::pipe();
    burst.atomic();
    for _ in 0..ENTRIES {
        burst.cmd("XADD").arg(BROADCAST).arg("*").arg("payload").arg(broadcast(9, 1)).ignore();
    }
    let mut connection = redis.connection().await;
    let burst = tokio::spawn(async move { burst.query_async::<()>(&mut connection).await.unwrap() });
    eventually("a lag", || async { (gateway.metric(LAG).await > 0.0).then_some(()) }).await;
    burst.await.unwrap();
    gateway.metric_is(READ, ENTRIES as f64).await;
    gateway.metric_is(LAG, 0.0).await;
    assert_eq!(gateway.metric(LOST).await, 0.0);
}

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
async fn replication_says(redis: &Redis, text: &str) {
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
    let gateway = connected(Setup { yaml: format!("games: [{{ id: mmo }}]\n{yaml}"), ..Setup::default() }).await;
    let at = [Address(redis.servers[0].port), Address(redis.servers[1].port)];
    let check = load(&gateway, &at, 1, async {
        sleep(Duration::from_millis(500)).await;
        if crash {
            redis.servers[0].kill().await;
            replication_says(&redis.servers[1], "role:master").await;
            redis.servers[0].restart().await;
            // The Sentinels do the same later.
            redis.servers[0].replicate(Some(&redis.servers[1])).await;
        } else {
            redis.fail_over().await;
            replication_says(&redis.servers[1], "role:master").await;
        }
        whole_master(&redis.servers).await;
    })
    .await;
    check.holds(whole_master(&redis.servers).await).await;
}

/// Waits until one of the servers is a master with a replica. On a busy machine, the Sentinels may replace it once more.
async fn whole_master(servers: &[Redis; 2]) -> &Redis {
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
struct Address(u16);

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

/// What was accepted.
struct Check {
    sent: usize,
    refused: BTreeSet<usize>,
}

impl Check {
    /// Asserts that everything that was accepted is in the stream once and in order.
    async fn holds(&self, redis: &Redis) {
        let (numbers, _) = requests(redis).await;
        assert!(numbers.is_sorted_by(|a, b| a < b), "not in order, or twice: {numbers:?}");
        let there: BTreeSet<_> = numbers.into_iter().collect();
        let missing: Vec<_> =
            (1..self.sent).filter(|number| !self.refused.contains(number) && !there.contains(number)).collect();
        assert!(missing.is_empty(), "accepted and lost: {missing:?}");
        assert!(self.sent - self.refused.len() > 50, "{} of {} were refused", self.refused.len(), self.sent);
    }
}

/// Sends requests and deliveries until the trouble is over, and some more. Asserts that the client receives each delivery
/// once and in order. Returns what was accepted.
async fn load(gateway: &Gateway, at: &[Address], replicas: usize, trouble: impl Future<Output = ()>) -> Check {
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
