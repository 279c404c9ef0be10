//! The slots with topics that are streams. Each has connections of its own, which follow the slot's master in the way in
//! which those to a single server follow the master that Sentinels name.
//!
//! The connections of the nodes are not used. A publish to a stream that is not accepted yet outlives the master: it is
//! sent again to the next one, with the same id, and before anything newer. So its owner has to belong to the slot. And
//! one `XREAD` may name only streams of the same slot. The Cluster connection of the client library was rejected for the
//! reader: it hides which master answers, and that a master was replaced, after which the position has to be checked.
//!
//! Each slot costs the same connections as a single server. That is little, because streams are few.

use super::{node::Relay, slots::Slots};
use crate::{
    bus::{
        batch::Publication,
        health::Health,
        intake::{Handler, Intake},
        queue::Queue,
        redis::{
            observer::Alone,
            place::{Address, Switches},
            server::Server,
            slot,
            streams::reader::Wanted,
            words::SHARDED,
        },
        topics::Topics,
    },
    config,
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The slots with streams that are published to or read.
pub(super) struct StreamSlots<H: Handler> {
    config: config::Redis,
    intake: Arc<Intake<H>>,
    topics: Arc<Topics>,
    health: Arc<Health>,
    slots: BTreeMap<u16, StreamSlot<H::Origin>>,
    stop: CancellationToken,
}

/// A slot. Once it has begun, it stays until the gateway stops.
struct StreamSlot<O> {
    queue: Arc<Queue<O>>,
    /// The address of the slot's master, if it has one.
    master: watch::Sender<Option<Address>>,
    part: Arc<str>,
}

impl<H: Handler> StreamSlots<H> {
    /// Returns no slots. `config` has the user of all nodes.
    pub(super) fn new(
        config: config::Redis,
        intake: &Arc<Intake<H>>,
        topics: &Arc<Topics>,
        health: &Arc<Health>,
    ) -> Self {
        let (intake, topics, health) = (Arc::clone(intake), Arc::clone(topics), Arc::clone(health));
        Self { config, intake, topics, health, slots: BTreeMap::new(), stop: CancellationToken::new() }
    }

    /// Returns whether a topic is a stream.
    pub(super) fn takes(&self, topic: &str) -> bool {
        self.config.streams.contains(topic)
    }

    /// Begins the slots of the streams that are wanted, in tasks of `tasks`.
    pub(super) fn begin_wanted(&mut self, slots: &Slots, tasks: &mut JoinSet<()>) {
        for stream in self.topics.streams() {
            self.begin(slot::of(&stream), slots, tasks);
        }
    }

    /// Queues a publish to a stream. Returns false if the queue of its slot is full.
    pub(super) fn queue(
        &mut self,
        publication: &Publication<'_, H::Origin>,
        slots: &Slots,
        tasks: &mut JoinSet<()>,
    ) -> bool {
        let slot = self.begin(slot::of(publication.topic), slots, tasks);
        slot.queue.pass_on(publication.topic, publication.body, publication.origin.copied())
    }

    fn begin(&mut self, slot: u16, slots: &Slots, tasks: &mut JoinSet<()>) -> &StreamSlot<H::Origin> {
        let Self { config, intake, topics, health, stop, .. } = self;
        match self.slots.entry(slot) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let (queue, part): (Arc<Queue<_>>, Arc<str>) = (Arc::default(), format!("slot {slot}").into());
                let (master, switches) = watch::channel(address_of(slot, slots));
                let id = Uuid::new_v4();
                let is_own = |channel: &String| slot::of(channel) == slot;
                let channel =
                    (0_u64..).map(|i| format!("gateway:{id}:{i}")).find(is_own).expect("a channel of each slot");
                let server = Server {
                    config: config.clone(),
                    words: &SHARDED,
                    master: Some(Switches::of_slot(switches)),
                    node: Arc::clone(&part),
                    channel: channel.into(),
                    intake: Relay::intake(intake, &queue),
                    observer: Arc::new(Alone(Arc::clone(&queue))),
                    // Only the channel of the probes is subscribed to.
                    topics: Arc::default(),
                    streams: Some(Wanted { topics: Arc::clone(topics), slot: Some(slot) }),
                    health: Arc::clone(health),
                };
                tasks.spawn(server.run(stop.clone()));
                new.insert(StreamSlot { queue, master, part })
            }
        }
    }

    /// Makes the connections follow the masters of their slots.
    pub(super) fn follow(&self, slots: &Slots) {
        for (slot, StreamSlot { master, .. }) in &self.slots {
            let address = address_of(*slot, slots);
            master.send_if_modified(|current| {
                let has_changed = *current != address;
                *current = address;
                has_changed
            });
        }
    }

    /// Returns whether the connections of one of this master's slots do not work, so that the slot may have moved.
    pub(super) fn doubt(&self, master: &str, slots: &Slots) -> bool {
        self.slots.iter().any(|(slot, StreamSlot { part, .. })| {
            slots.master_of(*slot).is_some_and(|address| **address == *master) && self.health.is_node_down(part)
        })
    }

    /// Returns the number of publishes that wait for the slot of a stream.
    #[cfg(test)]
    pub(super) fn queued(&self, stream: &str) -> usize {
        self.slots[&slot::of(stream)].queue.len()
    }

    /// Ends the connections when everything that is queued is published or refused.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

/// Returns the address of the master of a slot, if it has one.
fn address_of(slot: u16, slots: &Slots) -> Option<Address> {
    let (host, port) = slots.master_of(slot)?.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
}
