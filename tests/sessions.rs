//! Contract section 5: sessions, their users, their ends, and what becomes of those that are slow or silent.
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

/// A gateway with these keys of `server`, on a Redis that it hears.
async fn start(server: &str) -> (Redis, Gateway) {
    let redis = Redis::start().await;
    let gateway = Gateway::start(Setup { server: server.to_owned(), ..Setup::redis(&redis) }).await;
    redis.subscribers_are("broadcast", 1).await;
    (redis, gateway)
}

/// A backend's connection. It waits longer for an answer than the half second that is the library's default, which a busy machine
/// may need.
async fn backend(redis: &Redis) -> MultiplexedConnection {
    let mut connection = redis.connection().await;
    connection.set_response_timeout(PATIENCE);
    connection
}

/// Publishes the payload for the gateway so often, as one batch.
async fn publish(backend: &mut MultiplexedConnection, payload: &[u8], count: usize) {
    let mut batch = redis::pipe();
    for _ in 0..count {
        batch.publish("broadcast", payload).ignore();
    }
    batch.exec_async(backend).await.unwrap();
}

/// A session that is bound to the user.
async fn session_of(gateway: &Gateway, user: i32) -> Client {
    let mut client = gateway.client().await;
    client.send(1, &chat_request("mmo", user, "")).await;
    // Packets are served in order, so it is bound once this is answered.
    client.assert_alive().await;
    client
}

/// What a backend publishes for a user.
fn delivery(user: i32, content: &str) -> Vec<u8> {
    MessageBroadcast { target_user_id: user, content: content.to_owned(), ..Default::default() }.encode_to_vec()
}

/// Asserts that the next packet is the delivery with this number, byte for byte.
async fn assert_receives(client: &mut Client, seq: u32, payload: &[u8]) {
    let push = client.receive().await;
    assert_eq!((push.seq, push.route, push.flags, push.status), (seq, 1, 0, 0), "{push:?}");
    assert_eq!(push.payload, payload);
}
