//! The bus over Redis. It has one connection to publish and one to subscribe. Each has its own task, which connects
//! again whenever its connection breaks. If some topics are streams, a third task reads them.
//!
//! The connections of a client library are not used, except for reading streams and for [`keys`]. Here, all queued publishes are one
//! write, answers are parsed in the read buffer, and messages are handled where they are read. No queue lies in between,
//! so a slow policy makes Redis wait and does not increase the memory of this process.
//!
//! The connections to Redis and the commands on them belong here. This module and its submodules may know the types of
//! `bus`, the configuration of Redis, and the sockets to Redis. They must not know sessions or plugins.

mod checkup;
mod cluster;
mod confirmation;
mod connection;
mod error;
mod incoming;
pub(super) mod keys;
mod link;
mod observer;
mod place;
mod probe;
mod publisher;
mod server;
mod silence;
mod slot;
mod streams;
mod subscriber;
mod words;

use super::{
    health::Health,
    intake::{Handler, Intake},
    topics::Topics,
};
use crate::config::{self, RedisPlace};
pub(super) use checkup::examine;
use observer::Alone;
use server::Server;
use std::sync::Arc;
use streams::reader::Wanted;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use words::PLAIN;

/// Runs the connections until `stop`, and then until every queued publish is published or refused.
///
/// # Panics
/// Panics if one of the tasks has panicked.
pub(super) async fn run<H: Handler>(
    config: config::Redis,
    intake: Arc<Intake<H>>,
    topics: Arc<Topics>,
    health: Arc<Health>,
    stop: CancellationToken,
) {
    if let RedisPlace::Cluster { .. } = config.place {
        return cluster::run(config, intake, topics, health, stop).await;
    }
    topics.set_streams(config.streams.clone());
    let server = Server {
        streams: (!config.streams.is_empty()).then(|| Wanted { topics: Arc::clone(&topics), slot: None }),
        config,
        words: &PLAIN,
        master: None,
        node: "".into(),
        channel: format!("gateway:{}", Uuid::new_v4()).into(),
        observer: Arc::new(Alone(Arc::clone(&intake.queue))),
        intake,
        topics,
        health,
    };
    server.run(stop).await;
}
