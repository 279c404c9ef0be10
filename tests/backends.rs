//! Tests of the traffic between gateway and backends (docs/backends.md): the requests that backends receive, and the
//! sessions that their answers reach.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "backends/answers.rs"]
mod answers;
#[path = "backends/buses.rs"]
mod buses;
#[path = "backends/busy.rs"]
mod busy;
#[path = "backends/cluster.rs"]
mod cluster;
#[path = "backends/cluster_streams.rs"]
mod cluster_streams;
#[path = "backends/crowd.rs"]
mod crowd;
#[path = "backends/crowd_streams.rs"]
mod crowd_streams;
#[path = "backends/encrypted.rs"]
mod encrypted;
#[path = "backends/failovers.rs"]
mod failovers;
#[path = "backends/frozen.rs"]
mod frozen;
#[path = "backends/gaps.rs"]
mod gaps;
#[path = "backends/grace.rs"]
mod grace;
#[path = "backends/heard.rs"]
mod heard;
#[path = "backends/interest.rs"]
mod interest;
#[path = "backends/outages.rs"]
mod outages;
#[path = "backends/overload.rs"]
mod overload;
#[path = "backends/partition.rs"]
mod partition;
#[path = "backends/probes.rs"]
mod probes;
#[path = "backends/refusals.rs"]
mod refusals;
#[path = "backends/restricted.rs"]
mod restricted;
#[path = "backends/samples.rs"]
mod samples;
#[path = "backends/sentinels.rs"]
mod sentinels;
#[path = "backends/streams.rs"]
mod streams;
#[path = "backends/topics.rs"]
mod topics;
#[path = "backends/trouble.rs"]
mod trouble;

use chat_proto::{
    chat::{ChatRequest, ChatResponse, MessageBroadcast},
    common::{MessageBase, MessageMeta},
};
use gateway_tests::{Client, Gateway, Packet, Redis, Setup, chat_request};
use prost::Message;

const CHAT: u8 = 1;
const REQUESTS: &str = "game:request:mmo";
const BROADCAST: &str = "broadcast";
const REJECTED: &str = "gateway_routing_errors_total{reason=\"message_rejected\"}";
const NOT_HERE: &str = "gateway_deliveries_total{outcome=\"not_here\"}";
const DELIVERED: &str = "gateway_deliveries_total{outcome=\"delivered\"}";

/// A field that none of the messages has, as a newer backend may send it.
const UNKNOWN_FIELD: &[u8] = b"\xa2\x06\x03new";

/// Starts a Redis and a gateway that is connected to it.
async fn stage() -> (Redis, Gateway) {
    let redis = Redis::start().await;
    let gateway = connected(Setup::redis(&redis)).await;
    (redis, gateway)
}

async fn connected(setup: Setup) -> Gateway {
    let gateway = Gateway::start(setup).await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    gateway
}

/// Returns a response in which every field is set, with an unknown field after them.
fn response(user_id: i32, session_id: &str, number: i64) -> Vec<u8> {
    let response = ChatResponse {
        base: Some(MessageBase { game_id: "mmo".to_owned(), user_id: 99, timestamp: 5 }),
        success: number % 2 == 0,
        error_message: format!("response {number}"),
        message_id: number,
        timestamp: -1,
        target_user_id: user_id,
        target_session_id: session_id.to_owned(),
        meta: Some(MessageMeta { session_id: session_id.to_owned(), ..Default::default() }),
    };
    [&response.encode_to_vec()[..], UNKNOWN_FIELD].concat()
}

fn broadcast(user_id: i32, number: i64) -> Vec<u8> {
    let broadcast = MessageBroadcast {
        message_id: number,
        sender_id: 99,
        sender_name: "sender".to_owned(),
        channel_id: 3,
        content: format!("broadcast {number}"),
        timestamp: -1,
        r#type: 2,
        target_user_id: user_id,
        meta: None,
    };
    [&broadcast.encode_to_vec()[..], UNKNOWN_FIELD].concat()
}

/// Takes the next packet, and asserts that it is the chat push with this number and payload.
async fn assert_pushed(client: &mut Client, seq: u32, payload: &[u8]) {
    let pushed = Packet { seq, route: CHAT, flags: 0, status: 0, payload: payload.to_vec().into() };
    assert_eq!(client.receive().await, pushed);
}

#[tokio::test]
async fn a_request_appears_on_the_topic_of_its_game_byte_for_byte() {
    let redis = Redis::start().await;
    let yaml = format!(
        "games: [{{ id: mmo }}, {{ id: rpg }}]\nredis: {{ addr: \"127.0.0.1:{}\", timeout_ms: 30000 }}",
        redis.port
    );
    let gateway = connected(Setup { yaml, ..Setup::default() }).await;
    let mut mmo = redis.subscribe(REQUESTS).await;
    let mut rpg = redis.subscribe("game:request:rpg").await;
    let mut client = gateway.client().await;
    for number in 0..10 {
        for (game, heard) in [("mmo", &mut mmo), ("rpg", &mut rpg)] {
            let request = [&chat_request(game, 7, &format!("{game} {number}"))[..], UNKNOWN_FIELD].concat();
            client.send(CHAT, &request).await;
            assert_eq!(heard.next().await, request);
        }
    }
    client.assert_alive().await;
    // The gateway subscribes to `broadcast` only, and not to the topics of the backends.
    redis.subscribers_are(REQUESTS, 1).await;
    redis.subscribers_are(BROADCAST, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_sessions_requests_reach_redis_in_the_order_it_sent_them() {
    const SESSIONS: i32 = 5;
    const REQUESTS_EACH: i32 = 1000;
    let request =
        |user, number: i32| chat_request("mmo", user, &format!("{number} {}", "x".repeat(number as usize % 99)));
    let (redis, gateway) = stage().await;
    let mut heard = redis.subscribe(REQUESTS).await;
    let mut sending = Vec::new();
    for user in 1..=SESSIONS {
        let mut client = gateway.client().await;
        sending.push(tokio::spawn(async move {
            for number in 0..REQUESTS_EACH {
                client.send(CHAT, &request(user, number)).await;
            }
            client.assert_alive().await;
            client
        }));
    }
    let mut next = [0; SESSIONS as usize + 1];
    for _ in 0..SESSIONS * REQUESTS_EACH {
        let message = heard.next().await;
        let user = ChatRequest::decode(&message[..]).unwrap().base.unwrap().user_id;
        assert_eq!(message, request(user, next[user as usize]), "user {user}");
        next[user as usize] += 1;
    }
    for client in sending {
        client.await.unwrap();
    }
    gateway.metric_is("gateway_bus_published_total", f64::from(SESSIONS * REQUESTS_EACH)).await;
}

/// Publishes deliveries for user 7, and checks who receives them.
async fn reaches_every_session_of_its_user(delivery: impl Fn(i64) -> Vec<u8>) {
    let (redis, gateway) = stage().await;
    let mut sessions = [gateway.client_of(7).await, gateway.client_of(7).await, gateway.client_of(7).await];
    let (mut other, mut nobody) = (gateway.client_of(8).await, gateway.client().await);
    for number in 1..=5_u32 {
        let payload = delivery(number.into());
        redis.publish(BROADCAST, &payload).await;
        for session in &mut sessions {
            assert_pushed(session, number, &payload).await;
        }
    }
    for client in sessions.iter_mut().chain([&mut other, &mut nobody]) {
        client.assert_alive().await;
    }
    gateway.metric_is(DELIVERED, 5.0).await;
    assert_eq!(gateway.metric(NOT_HERE).await, 0.0);
}

#[tokio::test]
async fn a_response_goes_unchanged_to_every_session_of_its_target_user() {
    reaches_every_session_of_its_user(|number| response(7, "", number)).await;
}

#[tokio::test]
async fn a_broadcast_goes_unchanged_to_every_session_of_its_target_user() {
    reaches_every_session_of_its_user(|number| broadcast(7, number)).await;
}

#[tokio::test]
async fn a_target_session_takes_precedence_over_the_target_user() {
    let (redis, gateway) = stage().await;
    let mut sessions = [gateway.client_of(7).await, gateway.client_of(7).await, gateway.client().await];
    let mut other = gateway.client_of(8).await;
    for index in 0..sessions.len() {
        // The id is the one of the welcome, next to another user's id. The last session is not bound to a user.
        let id = sessions[index].welcome.session_id.clone();
        for (seq, id) in [(1, id.clone()), (2, id.to_uppercase())] {
            let payload = response(8, &id, index as i64);
            redis.publish(BROADCAST, &payload).await;
            assert_pushed(&mut sessions[index], seq, &payload).await;
        }
        for client in sessions.iter_mut().chain([&mut other]) {
            client.assert_alive().await;
        }
    }
    // Deliveries to a session and deliveries to its user share one counter.
    let payload = response(7, "", 9);
    redis.publish(BROADCAST, &payload).await;
    assert_pushed(&mut sessions[0], 3, &payload).await;
    assert_pushed(&mut sessions[1], 3, &payload).await;
}

#[tokio::test]
async fn a_delivery_for_a_session_or_a_user_that_is_not_here_is_ignored_and_counted() {
    let (redis, gateway) = stage().await;
    let gone = gateway.client_of(9).await;
    let gone_id = gone.welcome.session_id.clone();
    drop(gone);
    gateway.metric_is("gateway_sessions", 0.0).await;
    let mut client = gateway.client_of(7).await;
    let elsewhere = "01234567-89ab-4def-8123-456789abcdef";
    let away = [
        response(8, "", 1),
        response(-7, "", 2),
        broadcast(i32::MAX, 3),
        broadcast(9, 4),
        response(0, elsewhere, 5),
        // The user has a session here, but the target session takes precedence.
        response(7, elsewhere, 6),
        response(7, &gone_id, 7),
    ];
    for (count, payload) in (1..).zip(&away) {
        assert_eq!(redis.publish(BROADCAST, payload).await, 1);
        gateway.metric_is(NOT_HERE, f64::from(count)).await;
    }
    redis.publish(BROADCAST, &response(7, "", 8)).await;
    assert_pushed(&mut client, 1, &response(7, "", 8)).await;
    gateway.metric_is(DELIVERED, 1.0).await;
    assert_eq!(gateway.metric(REJECTED).await, 0.0);
}

#[tokio::test]
async fn a_delivery_without_a_target_is_counted_and_logged() {
    let (redis, gateway) = stage().await;
    let payload = response(0, "", 1);
    redis.publish(BROADCAST, &payload).await;
    gateway.metric_is(REJECTED, 1.0).await;
    let line = gateway.logged("bus message refused").await;
    let fields = &line["fields"];
    assert_eq!((line["level"].as_str(), fields["topic"].as_str()), (Some("WARN"), Some(BROADCAST)), "{line}");
    assert_eq!(fields["bytes"], payload.len(), "{line}");
    assert!(fields["why"].as_str().unwrap().contains("target_user_id"), "{line}");
    assert_eq!((gateway.metric(NOT_HERE).await, gateway.metric(DELIVERED).await), (0.0, 0.0));
}

#[tokio::test]
async fn junk_among_the_deliveries_disturbs_nothing() {
    let (redis, gateway) = stage().await;
    let mut client = gateway.client_of(7).await;
    let base = Some(MessageBase { game_id: "mmo".to_owned(), user_id: 7, timestamp: 5 });
    let meta = Some(MessageMeta { session_id: client.welcome.session_id.clone(), ..Default::default() });
    let good = response(7, "", 0);
    let mut junk = vec![
        Vec::new(),
        vec![0; 1 << 20],
        vec![0xff; 1 << 20],
        b"hello".to_vec(),
        chat_request("mmo", 7, "a request has no target"),
        ChatRequest { base, meta, receiver_id: 7, ..Default::default() }.encode_to_vec(),
        response(7, "no uuid", 1),
        response(7, &client.welcome.session_id[1..], 2),
        b"\x5a\x02\xff\xfe\x50\x07".to_vec(), // target_session_id: not UTF-8
        b"\x52\x01\x07".to_vec(),             // target_user_id: a string
        good[..good.len() - 1].to_vec(),
    ];
    // Knuth's multiplicative hash: noise that is the same in every run.
    let noise = |seed: u32, len| (0..len).map(|i| ((seed + i).wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    junk.extend((1..=50).map(|seed| noise(seed << 16, seed * 40)));
    for (number, payload) in (1..).zip(&junk) {
        redis.publish(BROADCAST, payload).await;
        let good = response(7, "", number.into());
        redis.publish(BROADCAST, &good).await;
        assert_pushed(&mut client, number, &good).await;
    }
    client.assert_alive().await;
    gateway.metric_is(REJECTED, junk.len() as f64).await;
    assert_eq!(gateway.metric(NOT_HERE).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deliveries_to_one_target_keep_the_order_of_redis() {
    const DELIVERIES: u32 = 5000;
    let redis = Redis::start().await;
    // The deliveries arrive in one burst, which must fit into the send queue.
    let gateway = connected(Setup { server: "send_queue: 8192".to_owned(), ..Setup::redis(&redis) }).await;
    let mut client = gateway.client_of(7).await;
    let id = client.welcome.session_id.clone();
    let delivery = |number: u32| match number % 3 {
        0 => response(7, "", number.into()),
        1 => broadcast(7, number.into()),
        _ => response(0, &id, number.into()),
    };
    let mut burst = redis::pipe();
    for number in 1..=DELIVERIES {
        burst.publish(BROADCAST, delivery(number)).ignore();
    }
    let mut connection = redis.connection().await;
    burst.query_async::<()>(&mut connection).await.unwrap();
    for number in 1..=DELIVERIES {
        assert_pushed(&mut client, number, &delivery(number)).await;
    }
    client.assert_alive().await;
    gateway.metric_is(DELIVERED, f64::from(DELIVERIES)).await;
}

#[tokio::test]
async fn a_delivery_of_one_mebibyte_arrives() {
    let (redis, gateway) = stage().await;
    let mut client = gateway.client_of(7).await;
    let content: String = (0..1 << 20).map(|i| char::from(b'a' + (i % 23) as u8)).collect();
    let payload = MessageBroadcast { content, target_user_id: 7, ..Default::default() }.encode_to_vec();
    redis.publish(BROADCAST, &payload).await;
    let pushed = client.receive().await;
    assert_eq!((pushed.seq, pushed.route, pushed.status), (1, CHAT, 0));
    assert!(
        pushed.payload == payload,
        "sent {} bytes, received {} different ones",
        payload.len(),
        pushed.payload.len()
    );
}
