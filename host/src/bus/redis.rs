//! Redis: one connection to publish and one to subscribe, each a task of its own that connects anew whenever its connection breaks.
//!
//! Not a client library's connections: all that waits is one write, what comes back is read in place, and the subscriber's messages are
//! handled where they are read. No queue stands between, so a slow policy makes Redis wait instead of growing this process's memory.

mod confirmation;
mod connection;
mod link;
mod publisher;
mod subscriber;

use super::{Direction, Handler, Health, Intake};
use crate::config;
use confirmation::Topics;
use link::Link;
use publisher::Publisher;
use std::{panic, sync::Arc};
use subscriber::Subscriber;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Runs both directions until `stop`, and then until what is queued is published or refused.
///
/// # Panics
/// If one of them has panicked.
pub(super) async fn run<H: Handler>(
    config: config::Redis,
    intake: Arc<Intake<H>>,
    topics: Topics,
    health: Arc<Health>,
    stop: CancellationToken,
) {
    let link = |direction| Link::new(config.clone(), Arc::clone(&health), direction);
    let (asking, confirming) = confirmation::pair(topics);
    let mut directions = JoinSet::new();
    directions.spawn(Publisher::new(link(Direction::Publish), Arc::clone(&intake), asking).run(stop));
    directions.spawn(Subscriber::new(link(Direction::Subscribe), intake, confirming).run());
    // The subscriber never ends by itself, so this is the end of publishing. The other task is aborted with the set.
    if let Some(Err(error)) = directions.join_next().await
        && let Ok(panic) = error.try_into_panic()
    {
        panic::resume_unwind(panic);
    }
}
