//! Publish and subscribe over Redis, or over an embedded bus in the same process.
//!
//! The queue of publishes, the connections to Redis, the embedded bus, and the accounting for each publish belong here.
//! This module and its submodules may know topics, bytes, `config`, `sync` and `telemetry`.
//! They must not know sessions, packets, plugins or routing. They report to the rest of the gateway through [`Handler`]
//! only.

mod backoff;
mod batch;
mod embedded;
mod health;
mod intake;
mod queue;
mod redis;
mod topics;

pub use health::Health;
pub use intake::{Handler, Message};
pub use queue::{ChangeNumber, DRAIN, Full, Load, Permit, Queue, Share};
pub use redis::keys::{Keys, Value};
pub use topics::Topics;

use crate::{config, finding::Finding};
use intake::Intake;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Looks whether Redis can be reached, and whether it is set up for the bus. Returns what is wrong.
pub async fn examine(config: &config::Redis) -> Vec<Finding> {
    redis::examine(config).await
}

/// Carries publishes and messages until `stop`, and then publishes or refuses the queued publishes. Over Redis,
/// the handler receives the messages of `topics`. The embedded bus passes every message to the handler.
///
/// Every publish has one of three outcomes: it reaches a subscriber, it has no subscriber, or it is counted as dropped.
/// In the last two cases, the origin of the publish is answered if there is one.
pub async fn run<H: Handler>(
    config: Option<config::Redis>,
    queue: Arc<Queue<H::Origin>>,
    topics: Arc<Topics>,
    handler: H,
    health: Arc<Health>,
    stop: CancellationToken,
) {
    let intake = Arc::new(Intake { queue, handler, metrics: Arc::clone(&health.metrics) });
    match config {
        Some(config) => redis::run(config, intake, topics, health, stop).await,
        None => embedded::run(&intake, health, stop).await,
    }
}
