//! Tests of topics that are streams: what was accepted is in the stream once, and what is in the stream is delivered once.

use super::{BROADCAST, CHAT, REQUESTS, assert_pushed, broadcast, connected};
use chat_proto::chat::ChatRequest;
use gateway_tests::{Bound, Client, Connections, Gateway, Proxy, Redis, Setup, chat_request, eventually};
use prost::Message;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::{self, Instant};

pub(super) const STREAMS: &str = "streams: [\"game:request:*\", broadcast]";
pub(super) const LAG: &str = "gateway_bus_stream_lag_entries{topic=\"broadcast\"}";
pub(super) const READ: &str = "gateway_bus_stream_entries_total";
const DUPLICATES: &str = "gateway_bus_stream_duplicates_total";
const PUBLISHED: &str = "gateway_bus_published_total";
const REFUSED: &str = "gateway_messages_dropped_total{reason=\"bus_unavailable\"}";
pub(super) const LOST: &str = "gateway_bus_stream_lost_total";
pub(super) const GAPS: &str = "gateway_bus_gaps_total";
const MALFORMED: &str = "gateway_messages_dropped_total{reason=\"bus_entry_malformed\"}";

pub(super) type Entry = (String, Vec<(String, Vec<u8>)>);

/// Starts a Redis with AOF, which loses nothing that it has answered, and a gateway whose topics are streams.
pub(super) async fn stage() -> (Redis, Gateway) {
    let redis = Redis::start_with_arguments(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let gateway = connected(Setup::redis_with(&redis, STREAMS)).await;
    (redis, gateway)
}

/// Adds an entry as a backend does that uses no ids.
pub(super) async fn add(redis: &Redis, payload: &[u8]) {
    redis.run(redis::cmd("XADD").arg(BROADCAST).arg("*").arg("payload").arg(payload)).await;
}

/// Returns all entries of a stream.
pub(super) async fn entries(redis: &Redis, stream: &str) -> Vec<Entry> {
    let mut command = redis::cmd("XRANGE");
    command.arg(stream).arg("-").arg("+");
    command.query_async(&mut redis.connection().await).await.unwrap()
}

/// Returns the numbers of the requests in the stream, without the duplicates that the rule for readers finds, and the
/// number of these.
pub(super) async fn requests(redis: &Redis) -> (Vec<usize>, usize) {
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

pub(super) fn request(number: usize) -> Vec<u8> {
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
pub(super) async fn reader(redis: &Redis) -> u64 {
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
    gateway.metric_is(PUBLISHED, 101.0).await;
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
    gateway.metric_is(PUBLISHED, 1.0).await;
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
    gateway.metric_is(PUBLISHED, 1.0).await;
    assert_eq!(requests(&replica).await.0, [1, 2, 3]);
    client.assert_alive().await;
}

/// Sends a request, and waits until the gateway has published or refused it. Returns whether it was published.
async fn is_published(gateway: &Gateway, client: &mut Client, request: &[u8]) -> bool {
    let counts = || async { (gateway.metric(PUBLISHED).await, gateway.metric(REFUSED).await) };
    let before = counts().await;
    client.send(CHAT, request).await;
    let after = eventually("a request that is settled", || async {
        let now = counts().await;
        (now != before).then_some(now)
    })
    .await;
    let is_published = after.0 > before.0;
    if !is_published {
        assert_eq!(client.receive().await.status, 5);
    }
    is_published
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_answer_is_lost_is_sent_again_with_the_same_id() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let gateway = connected(proxy.setup_with(STREAMS)).await;
    let mut client = gateway.client_of(7).await;
    gateway.metric_is(PUBLISHED, 1.0).await;
    reader(&redis).await;
    let mut number = 0;
    // A request that waits behind a probe is not sent, and refused.
    loop {
        number += 1;
        proxy.drop_silently(Connections::Publishing, Bound::ToGateway);
        if is_published(&gateway, &mut client, &request(number)).await {
            break;
        }
        assert!(number < 10, "no request was sent");
        // Each connection begins with a probe, so the next attempt has to wait until a request has passed it.
        let began = Instant::now();
        while !is_published(&gateway, &mut client, &chat_request("mmo", 7, "no number")).await {
            assert!(began.elapsed() < Duration::from_secs(30), "the gateway did not connect again");
            time::sleep(Duration::from_millis(50)).await;
        }
    }
    let published = gateway.metric(PUBLISHED).await;
    client.send(CHAT, &request(number + 1)).await;
    gateway.metric_is(PUBLISHED, published + 1.0).await;
    let (numbers, duplicates) = requests(&redis).await;
    assert_eq!((numbers, duplicates), (vec![number, number + 1], 1));
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
    let gateway = connected(proxy.setup_with(STREAMS)).await;
    let mut client = gateway.client_of(7).await;
    // The gap is told after the entries, because the reader is connected.
    add_too_many(&redis).await;
    for number in 1..=100 {
        assert_pushed(&mut client, number, &broadcast(7, i64::from(number) + 200)).await;
    }
    gateway.metric_is(GAPS, 1.0).await;
    client.assert_alive().await;
    assert_eq!((client.gaps.len(), gateway.metric(LOST).await), (1, 200.0));
    // The reader is away.
    reader(&redis).await;
    proxy.drop_silently(Connections::Publishing, Bound::ToGateway);
    add_too_many(&redis).await;
    for number in 1..=100 {
        assert_pushed(&mut client, number + 100, &broadcast(7, i64::from(number) + 200)).await;
    }
    gateway.metric_is(GAPS, 2.0).await;
    client.assert_alive().await;
    assert_eq!((client.gaps.len(), gateway.metric(LOST).await), (2, 400.0));
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
