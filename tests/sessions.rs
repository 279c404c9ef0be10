//! Tests of sessions: their ids, their users, how they end, and what happens to slow or silent clients.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "sessions/backpressure.rs"]
mod backpressure;
#[path = "sessions/crowd.rs"]
mod crowd;
#[path = "sessions/silence.rs"]
mod silence;
#[path = "sessions/slow_reader.rs"]
mod slow_reader;
#[path = "sessions/users.rs"]
mod users;

use chat_proto::chat::MessageBroadcast;
use gateway_tests::{Client, Gateway, PATIENCE, Redis, Setup, chat_request};
use prost::Message;
use redis::aio::MultiplexedConnection;

/// Starts a Redis and a gateway with these keys of `server`, and waits until the gateway has subscribed.
async fn start(server: &str) -> (Redis, Gateway) {
    let redis = Redis::start().await;
    let gateway = Gateway::start(Setup { server: server.to_owned(), ..Setup::redis(&redis) }).await;
    redis.subscribers_are("broadcast", 1).await;
    (redis, gateway)
}

/// Opens a backend's connection. Its response timeout is longer than the library's default of half a second, which is
/// too short for a busy machine.
async fn backend(redis: &Redis) -> MultiplexedConnection {
    let mut connection = redis.connection().await;
    connection.set_response_timeout(PATIENCE);
    connection
}

/// Publishes the payload `count` times to the gateway's topic, in one pipeline.
async fn publish(backend: &mut MultiplexedConnection, payload: &[u8], count: usize) {
    let mut batch = redis::pipe();
    for _ in 0..count {
        batch.publish("broadcast", payload).ignore();
    }
    batch.exec_async(backend).await.unwrap();
}

/// Opens a session that is bound to the user. No backend may listen.
async fn session_of(gateway: &Gateway, user: i32) -> Client {
    let mut client = gateway.client().await;
    let seq = client.send(1, &chat_request("mmo", user, "")).await;
    // No backend hears the request. Once it is refused, the session is bound, and no reply can meet a full send queue.
    let refusal = client.receive_any().await;
    assert_eq!((refusal.seq, refusal.status), (seq, 5), "{refusal:?}");
    client.assert_alive().await;
    client
}

/// Returns a delivery for the user, as a backend publishes it.
fn delivery(user: i32, content: &str) -> Vec<u8> {
    MessageBroadcast { target_user_id: user, content: content.to_owned(), ..Default::default() }.encode_to_vec()
}

/// Asserts that the next packet is this payload under this delivery number, byte for byte.
async fn assert_receives(client: &mut Client, seq: u32, payload: &[u8]) {
    let push = client.receive().await;
    assert_eq!((push.seq, push.route, push.flags, push.status), (seq, 1, 0, 0), "{push:?}");
    assert_eq!(push.payload, payload);
}
