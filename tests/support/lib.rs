//! The tools of the end-to-end tests: the real binary in its own folder, clients, and a real Redis.
//!
//! Helpers never sleep for a fixed time and then assume that an event has happened. Instead, [`eventually`] waits for a
//! condition, and fails if the condition does not become true.
#![allow(clippy::missing_panics_doc, reason = "a test helper fails by panicking")]
#![allow(clippy::unwrap_used, reason = "a test helper fails by panicking")]

pub mod bombs;
mod browser;
pub mod certificates;
mod client;
mod cluster;
mod collector;
mod gateway;
mod guests;
mod key_server;
mod open_files;
mod ports;
mod proxy;
mod publisher;
mod redis_server;
mod relay;
mod sentinels;
mod tokens;
mod tools;
pub mod wire;

pub use browser::{Browser, Page};
pub use certificates::Certificates;
pub use client::{Client, Packet, header};
pub use cluster::{Cluster, ShardSubscription};
pub use collector::{Answer, Collector, TracedSpan};
pub use gateway::{DEMO_CHAT, Gateway, Setup, dist, root};
pub use guests::{chat_next, component, fifth, fourth, greeter, guest, probe, probe_as, put, variant, wat};
pub use key_server::KeyServer;
pub use open_files::raise_open_files;
pub use ports::ReservedPort;
pub use proxy::{Bound, Connections, Proxy};
pub use publisher::Publisher;
pub use redis_server::{Redis, Subscription, connect as connect_to_redis};
pub use relay::Relay;
pub use sentinels::{MASTER, Sentinels};
pub use tokens::{Issuer, SECRET};
pub use tools::{chromium, has, missing_program};

use chat_proto::{chat::ChatRequest, common::MessageBase};
use prost::Message;
use std::{future::Future, time::Duration};
use tokio::time::{self, Instant};

/// The maximum time that a condition may take to become true, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Calls `condition` repeatedly until it returns a value. Fails after [`PATIENCE`] with a message that contains `what`.
#[track_caller]
pub fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            assert!(Instant::now() < deadline, "{caller}: timed out after {PATIENCE:?} while waiting for: {what}");
            time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Waits for a future. Fails after [`PATIENCE`] with a message that contains `what`.
#[track_caller]
pub fn in_time<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        let outcome = time::timeout(PATIENCE, future).await;
        outcome.unwrap_or_else(|_| panic!("{caller}: timed out after {PATIENCE:?} while waiting for: {what}"))
    }
}

/// Returns the encoded chat request of a user in a game.
#[must_use]
pub fn chat_request(game_id: &str, user_id: i32, content: &str) -> Vec<u8> {
    let base = MessageBase { game_id: game_id.to_owned(), user_id, timestamp: 5 };
    ChatRequest { base: Some(base), content: content.to_owned(), ..Default::default() }.encode_to_vec()
}
