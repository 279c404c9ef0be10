//! Tests under load that swapping plugins loses, duplicates or reorders no message in either direction.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "swap/moved_route.rs"]
mod moved_route;

use chat_proto::chat::{ChatRequest, ChatResponse};
use gateway_tests::{
    Client, Gateway, PATIENCE, Packet, Redis, Setup, Subscription, chat_next, chat_request, dist, eventually, header,
    put,
};
use prost::Message;
use std::{
    collections::VecDeque,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};
use tokio::{sync::Semaphore, time::timeout};

const CLIENTS: i32 = 50;
const SWAPS: usize = 50;

/// The largest number of requests in flight from the clients to the backend. The smallest queue on the way, which is
/// the bus's, holds more.
const REQUESTS_UNDER_WAY: u32 = 8000;
/// The largest number of deliveries in flight from the backend to the clients. The smallest queue on the way, which is
/// the one of a slow plugin, holds more.
const DELIVERIES_UNDER_WAY: u32 = 900;

/// The largest number of heartbeats of one client without a reply.
const BEATS: usize = 4;
/// The number of chat requests before each heartbeat.
const CHATS: usize = 40;

const TOPIC: &str = "game:request:mmo";
const END: &[u8] = b"end";

/// The state that both ends of the load share: permits for messages in flight, and whether to stop.
struct Load {
    under_way: u32,
    room: Semaphore,
    stop: AtomicBool,
}

impl Load {
    fn new(under_way: u32) -> Arc<Self> {
        Arc::new(Self { under_way, room: Semaphore::new(under_way as usize), stop: AtomicBool::new(false) })
    }

    /// Takes the permit for one message, which the receiving end returns. Returns false if no message arrives any more.
    async fn depart(&self) -> bool {
        self.take(1).await
    }

    fn arrive(&self) {
        self.room.add_permits(1);
    }

    /// Waits until no message is in flight.
    async fn all_arrived(&self) {
        assert!(self.take(self.under_way).await, "some messages in flight never arrived");
    }

    async fn take(&self, messages: u32) -> bool {
        let room = timeout(PATIENCE, self.room.acquire_many(messages)).await;
        room.map(|room| room.unwrap().forget()).is_ok()
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Starts a gateway that is connected to this Redis.
async fn start(redis: &Redis) -> Gateway {
    let gateway = Gateway::start(Setup::redis(redis).patient()).await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    redis.subscribers_are("broadcast", 1).await;
    gateway
}

/// Swaps the chat plugin for its other version again and again, and waits each time until the new version is in use.
#[allow(clippy::print_stdout, reason = "shown where a test fails")]
async fn swap(gateway: &Gateway, times: usize) {
    let versions = [("0.1.0", fs::read(dist("chat")).unwrap()), ("0.2.0", chat_next())];
    let began = Instant::now();
    for swap in 1..=times {
        put(&gateway.plugin("chat"), &versions[swap % 2].1);
        gateway.metric_is("gateway_plugin_generation{plugin=\"chat\"}", (1 + swap) as f64).await;
    }
    println!("{times} swaps in {:?}; warnings and losses: {:#?}", began.elapsed(), complaints(gateway).await);
    // The last lines may still be on their way.
    let swapped: Vec<_> = eventually("a log line for each swap", || async {
        let lines = gateway.log_lines().into_iter();
        let swapped: Vec<_> = lines.filter(|line| line["fields"]["message"] == "plugin swapped").collect();
        (swapped.len() >= times).then_some(swapped)
    })
    .await;
    let swapped: Vec<_> = swapped.iter().map(|line| line["fields"]["version"].as_str().unwrap()).collect();
    let expected: Vec<_> = (1..=times).map(|swap| versions[swap % 2].0).collect();
    assert_eq!(swapped, expected, "each swap loads the other version");
}

/// Returns the log lines and metrics about lost or refused messages, and about clients that disconnected.
async fn complaints(gateway: &Gateway) -> Vec<String> {
    let lines = gateway.log_lines();
    let lines = lines.iter().filter(|line| line["level"] != "INFO").map(|line| line["fields"].to_string());
    let (_, metrics) = gateway.get("/metrics").await;
    let wrong = ["gateway_routing_errors_total", "gateway_messages_dropped_total", "gateway_disconnections_total"];
    let wrong = |line: &&str| wrong.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0");
    let metrics = metrics.lines().filter(wrong);
    lines.chain(metrics.map(str::to_owned)).collect()
}

async fn nothing_went_wrong(gateway: &Gateway) {
    assert_eq!(complaints(gateway).await, Vec::<String>::new());
    gateway.metric_is("gateway_sessions", f64::from(CLIENTS)).await;
    gateway.metric_is("gateway_connections_total", f64::from(CLIENTS)).await;
}

/// Sends numbered chat requests and heartbeats without pause. Returns the client, and the number of requests and of
/// heartbeats.
async fn talk(mut client: Client, user: i32, load: Arc<Load>) -> (Client, u64, u64) {
    let (mut chats, mut beats) = (0, 0);
    let mut awaited = VecDeque::new();
    'talking: while load.goes_on() {
        for _ in 0..CHATS {
            if !load.depart().await {
                break 'talking;
            }
            client.send(1, &chat_request("mmo", user, &chats.to_string())).await;
            chats += 1;
        }
        beats += 1;
        let beat = format!("beat {beats} of {user}").into_bytes();
        awaited.push_back((client.send(3, &beat).await, beat));
        if awaited.len() == BEATS {
            beat_comes_back(&mut client, &mut awaited).await;
        }
    }
    while !awaited.is_empty() {
        beat_comes_back(&mut client, &mut awaited).await;
    }
    // No other packet is on its way.
    client.assert_alive().await;
    (client, chats, beats + 1)
}

/// Asserts that the next packet is the reply to the oldest unanswered heartbeat, unchanged.
async fn beat_comes_back(client: &mut Client, awaited: &mut VecDeque<(u32, Vec<u8>)>) {
    let (seq, beat) = awaited.pop_front().unwrap();
    let reply = Packet { seq, route: 3, flags: 1, status: 0, payload: beat.into() };
    assert_eq!(client.receive().await, reply);
}

/// Receives requests until the end mark, and asserts that each is the next one of its user. Returns the number of
/// requests by user.
async fn hear(mut backend: Subscription, load: Arc<Load>) -> Vec<u64> {
    let mut heard = vec![0_u64; CLIENTS as usize + 1];
    loop {
        let message = backend.next().await;
        if message == END {
            return heard;
        }
        let request = ChatRequest::decode(&message[..]).unwrap();
        let user = request.base.unwrap().user_id;
        let next = &mut heard[user as usize];
        assert_eq!(request.content, next.to_string(), "the next request of user {user}");
        *next += 1;
        load.arrive();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_swaps_while_fifty_clients_send_lose_duplicate_and_reorder_nothing() {
    let redis = Redis::start().await;
    let backend = redis.subscribe(TOPIC).await;
    let gateway = start(&redis).await;
    let load = Load::new(REQUESTS_UNDER_WAY);
    let hearing = tokio::spawn(hear(backend, Arc::clone(&load)));
    let mut talking = Vec::new();
    for user in 1..=CLIENTS {
        talking.push(tokio::spawn(talk(gateway.client().await, user, Arc::clone(&load))));
    }
    swap(&gateway, SWAPS).await;
    load.stop();
    let (mut sent, mut beats) = (vec![0], 0);
    let mut clients = Vec::new();
    for talker in talking {
        let (client, chats, client_beats) = talker.await.unwrap();
        clients.push(client);
        sent.push(chats);
        beats += client_beats;
    }
    load.all_arrived().await;
    redis.publish(TOPIC, END).await;
    assert_eq!(hearing.await.unwrap(), sent, "requests that the backend received and that were sent, by user");

    let chats: u64 = sent.iter().sum();
    println!("{chats} chat requests, {beats} heartbeats");
    for (metric, count) in [
        // Chat is also called when each session begins.
        ("gateway_plugin_calls_total{plugin=\"chat\",outcome=\"ok\"}", chats + CLIENTS as u64),
        ("gateway_bus_published_total", chats),
        ("gateway_plugin_calls_total{plugin=\"system\",outcome=\"ok\"}", beats),
        ("gateway_plugin_generation{plugin=\"chat\"}", 1 + SWAPS as u64),
        ("gateway_plugin_generation{plugin=\"system\"}", 1),
    ] {
        gateway.metric_is(metric, count as f64).await;
    }
    assert!(
        sent.iter().skip(1).all(|chats| *chats > SWAPS as u64),
        "some user sent too few requests during the swaps: {sent:?}"
    );
    nothing_went_wrong(&gateway).await;
}

#[tokio::test]
async fn a_burst_in_one_write_is_served_whole_and_in_order() {
    let redis = Redis::start().await;
    let mut backend = redis.subscribe(TOPIC).await;
    let gateway = start(&redis).await;
    let mut client = gateway.client().await;
    let burst: u32 = 1000;
    let chat = |seq: u32| [header(seq, 1), chat_request("mmo", 7, &seq.to_string())].concat();
    client.send_messages((1..=burst).flat_map(|seq| [chat(seq), header(seq, 3)])).await;
    for seq in 1..=burst {
        assert_eq!(client.receive().await.seq, seq);
        assert_eq!(backend.next().await, chat_request("mmo", 7, &seq.to_string()));
    }
    client.assert_alive().await;
}

/// Sends numbered deliveries to all users without pause, and a last one to each. Returns how many deliveries each user
/// got.
async fn deliver(redis: &Redis, load: &Load) -> i64 {
    let mut connection = redis.connection().await;
    let mut delivered = 0;
    loop {
        let last = !load.goes_on();
        delivered += 1;
        let mut pipeline = redis::pipe();
        for user in 1..=CLIENTS {
            assert!(load.depart().await, "no message arrives any more");
            pipeline.publish("broadcast", delivery(user, delivered, last)).ignore();
        }
        pipeline.query_async::<()>(&mut connection).await.unwrap();
        if last {
            return delivered;
        }
    }
}

fn delivery(user: i32, message_id: i64, last: bool) -> Vec<u8> {
    let response = ChatResponse { message_id, target_user_id: user, success: !last, ..Default::default() };
    response.encode_to_vec()
}

/// Receives deliveries until the last one, and asserts that each is the next one. Returns the client and the number of
/// deliveries.
async fn listen(mut client: Client, user: i32, load: Arc<Load>) -> (Client, i64) {
    let mut heard = 0;
    loop {
        let push = client.receive().await;
        heard += 1;
        load.arrive();
        let last = push.payload == delivery(user, heard, true);
        let payload = delivery(user, heard, last).into();
        assert_eq!(push, Packet { seq: u32::try_from(heard).unwrap(), route: 1, flags: 0, status: 0, payload });
        if last {
            client.assert_alive().await;
            return (client, heard);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_while_backends_deliver_lose_duplicate_and_reorder_nothing() {
    let redis = Redis::start().await;
    let gateway = start(&redis).await;
    let load = Load::new(DELIVERIES_UNDER_WAY);
    // A backend has to receive the requests that bind the sessions.
    let backend = redis.subscribe(TOPIC).await;
    let mut listening = Vec::new();
    for user in 1..=CLIENTS {
        let mut client = gateway.client().await;
        client.send(1, &chat_request("mmo", user, "here I am")).await;
        client.assert_alive().await;
        listening.push(tokio::spawn(listen(client, user, Arc::clone(&load))));
    }
    // A heartbeat may be answered before the request ahead of it has reached Redis.
    gateway.metric_is("gateway_bus_published_total", f64::from(CLIENTS)).await;
    drop(backend);
    let swaps = async {
        swap(&gateway, 10).await;
        load.stop();
    };
    let (delivered, ()) = tokio::join!(deliver(&redis, &load), swaps);
    let mut clients = Vec::new();
    for listener in listening {
        let (client, heard) = listener.await.unwrap();
        clients.push(client);
        assert_eq!(heard, delivered);
    }
    println!("{delivered} deliveries to each of {CLIENTS}");
    let metric = "gateway_deliveries_total{outcome=\"delivered\"}";
    gateway.metric_is(metric, (delivered * i64::from(CLIENTS)) as f64).await;
    assert!(delivered > 10, "{delivered}");
    nothing_went_wrong(&gateway).await;
}
