//! The bus over Redis. It has one connection to publish and one to subscribe. Each has its own task, which connects
//! again whenever its connection breaks. If some topics are streams, a third task reads them.
//!
//! The connections of a client library are not used, except for reading streams. Here, all queued publishes are one write, answers are parsed in
//! the read buffer, and messages are handled where they are read. No queue lies in between, so a slow policy makes
//! Redis wait and does not increase the memory of this process.
//!
//! The connections to Redis and the commands on them belong here. This module and its submodules may know the types of
//! `bus`, the configuration of Redis, and the sockets to Redis. They must not know sessions or plugins.

mod confirmation;
mod connection;
mod error;
mod incoming;
mod link;
mod place;
mod probe;
mod publisher;
mod silence;
mod streams;
mod subscriber;

use super::{
    health::{Direction, Health},
    intake::{Handler, Intake},
    topics::Topics,
};
use crate::config;
use link::Link;
use place::Switches;
use publisher::Publisher;
use std::{panic, sync::Arc};
use streams::reader::Reader;
use subscriber::Subscriber;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Runs both directions until `stop`, and then until every queued publish is published or refused.
///
/// # Panics
/// Panics if the task of one direction has panicked.
pub(super) async fn run<H: Handler>(
    config: config::Redis,
    intake: Arc<Intake<H>>,
    topics: Arc<Topics>,
    health: Arc<Health>,
    stop: CancellationToken,
) {
    let mut directions = JoinSet::new();
    // Errors of addresses were found when the configuration was read.
    let switches = Switches::follow(&config.place, &mut directions).expect("addresses that were checked before");
    let link = |direction| Link::new(config.clone(), Arc::clone(&health), direction, switches.clone());
    topics.set_streams(config.streams.clone());
    let (asking, confirming) = confirmation::pair(Arc::clone(&topics));
    let (prober, probed) = probe::pair(config.probe_interval);
    directions.spawn(Publisher::new(link(Direction::Publish), Arc::clone(&intake), asking, prober).run(stop));
    if !config.streams.is_empty() {
        health.begin(Direction::Read);
        directions.spawn(Reader::new(link(Direction::Read), Arc::clone(&intake), topics).run());
    }
    directions.spawn(Subscriber::new(link(Direction::Subscribe), intake, confirming, probed).run());
    // The subscriber and the reader never end by themselves, so the first task to end is the publisher, or a task that
    // panicked. Dropping the set aborts the other tasks.
    if let Some(Err(error)) = directions.join_next().await
        && let Ok(panic) = error.try_into_panic()
    {
        panic::resume_unwind(panic);
    }
}
