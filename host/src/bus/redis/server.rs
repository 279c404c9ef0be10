//! One server: a connection to publish, a connection to subscribe, and perhaps one that reads streams.

use super::{
    confirmation,
    link::Link,
    observer::Observer,
    place::Switches,
    probe,
    publisher::Publisher,
    streams::reader::{Reader, Wanted},
    subscriber::Subscriber,
    words::Words,
};
use crate::{
    bus::{
        health::{Direction, Health, Part},
        intake::{Handler, Intake},
        topics::Topics,
    },
    config,
};
use std::{panic, sync::Arc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A server, which may be a node of a Cluster or whichever node has a slot, and what its connections carry.
pub(super) struct Server<H: Handler> {
    pub(super) config: config::Redis,
    pub(super) words: &'static Words,
    /// Follows the master of a slot. It is `None` if the configuration says where the server is.
    pub(super) master: Option<Switches>,
    /// The address of the node or the name of the slot, or nothing if there is only one server.
    pub(super) node: Arc<str>,
    /// The channel of the probes.
    pub(super) channel: Arc<str>,
    pub(super) intake: Arc<Intake<H>>,
    pub(super) observer: Arc<dyn Observer<H::Origin>>,
    pub(super) topics: Arc<Topics>,
    /// The streams that are read. It is `None` if none are.
    pub(super) streams: Option<Wanted>,
    pub(super) health: Arc<Health>,
}

impl<H: Handler> Server<H> {
    /// Runs all directions until `stop`, and then until every queued publish is published or refused.
    ///
    /// # Panics
    /// Panics if the task of one direction has panicked.
    pub(super) async fn run(self, stop: CancellationToken) {
        let Self { config, words, master, node, channel, intake, observer, topics, streams, health } = self;
        let mut directions = JoinSet::new();
        let switches = master.unwrap_or_else(|| {
            // Errors of addresses were found when the configuration was read.
            Switches::follow(&config.place, &mut directions).expect("addresses that were checked before")
        });
        let link = |direction| {
            let part = Part { direction, node: Arc::clone(&node) };
            Link::new(config.clone(), Arc::clone(&health), part, switches.clone())
        };
        let (asking, confirming) = confirmation::pair(Arc::clone(&topics));
        let (prober, probed) = probe::pair(words, channel, config.probe_interval);
        let bus = (Arc::clone(&intake), Arc::clone(&observer));
        directions.spawn(Publisher::new(link(Direction::Publish), words, bus, asking, prober).run(stop));
        if let Some(streams) = streams {
            directions.spawn(Reader::new(link(Direction::Read), Arc::clone(&intake), streams).run());
        }
        let bus = (intake, observer);
        directions.spawn(Subscriber::new(link(Direction::Subscribe), words, bus, confirming, probed).run());
        // The subscriber and the reader never end by themselves, so the first task to end is the publisher, or a task that
        // panicked. Dropping the set aborts the other tasks.
        if let Some(Err(error)) = directions.join_next().await
            && let Ok(panic) = error.try_into_panic()
        {
            panic::resume_unwind(panic);
        }
    }
}
