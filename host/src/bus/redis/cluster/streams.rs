//! The slots with topics that are streams. Each has connections of its own, which follow the slot's master in the way in
//! which those to a single server follow the master that Sentinels name.
//!
//! The connections of the nodes are not used. A publish to a stream that is not accepted yet outlives the master: it is
//! sent again to the next one, with the same id, and before anything newer. So its owner has to belong to the slot. And
//! one `XREAD` may name only streams of the same slot. The Cluster connection of the client library was rejected for the
//! reader: it hides which master answers, and that a master was replaced, after which the position has to be checked.
//!
//! Each slot costs the same connections as a single server. They end when the slot has not been used for some time.

use super::slots::Slots;
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
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The time after which a slot ends that has no stream to read and nothing to publish. It is longer than a publish may
/// wait to be sent again, so an earlier writer never writes after its successor.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// The slots with streams that are published to or read.
pub(super) struct StreamSlots<H: Handler> {
    config: config::Redis,
    intake: Arc<Intake<H>>,
    topics: Arc<Topics>,
    health: Arc<Health>,
    slots: BTreeMap<u16, StreamSlot<H::Origin>>,
    /// The number of slots that have begun so far.
    begun: u64,
    stop: CancellationToken,
}

/// A slot that has begun.
struct StreamSlot<O> {
    queue: Arc<Queue<O>>,
    /// The address of the slot's master, if it has one.
    master: watch::Sender<Option<Address>>,
    /// The name of the slot, with a number that another one for the same slot does not have.
    part: Arc<str>,
    /// When it last had a stream to read or a publish.
    used: Instant,
    stop: CancellationToken,
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
        let (slots, stop) = (BTreeMap::new(), CancellationToken::new());
        Self { config, intake, topics, health, slots, begun: 0, stop }
    }

    /// Returns whether a topic is a stream.
    pub(super) fn takes(&self, topic: &str) -> bool {
        self.config.streams.contains(topic)
    }

    /// Begins the slots of the streams that are wanted, in tasks of `tasks`.
    pub(super) fn begin_wanted(&mut self, slots: &Slots, tasks: &mut JoinSet<()>) {
        for stream in self.topics.streams() {
            self.begin(&stream, slots, tasks);
        }
    }

    /// Ends the slots that have not been used for some time, at the time `now`.
    pub(super) fn end_unused(&mut self, now: Instant) {
        for stream in self.topics.streams() {
            if let Some(slot) = self.slots.get_mut(&slot::of(&stream)) {
                slot.used = now;
            }
        }
        for (slot, unused) in self.slots.extract_if(.., |_, slot| now.duration_since(slot.used) >= MAX_IDLE) {
            tracing::info!(slot, "the connections of a slot without streams end");
            unused.stop.cancel();
        }
    }

    /// Queues a publish to a stream. Returns false if the queue of its slot is full.
    pub(super) fn queue(
        &mut self,
        publication: &Publication<'_, H::Origin>,
        slots: &Slots,
        tasks: &mut JoinSet<()>,
    ) -> bool {
        let slot = self.begin(publication.topic, slots, tasks);
        slot.used = Instant::now();
        slot.queue.pass_on(publication)
    }

    /// Begins the slot of a stream, unless it has begun already.
    fn begin(&mut self, stream: &str, slots: &Slots, tasks: &mut JoinSet<()>) -> &mut StreamSlot<H::Origin> {
        let Self { config, intake, topics, health, begun, stop, .. } = self;
        let slot = slot::of(stream);
        match self.slots.entry(slot) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                *begun += 1;
                let (queue, part): (Arc<Queue<_>>, Arc<str>) = (Arc::default(), format!("slot {slot}#{begun}").into());
                let (master, switches) = watch::channel(address_of(slot, slots));
                let channel = slot::channel_beside(stream, &format!("gateway:{}:", Uuid::new_v4()));
                let server = Server {
                    config: config.clone(),
                    words: &SHARDED,
                    master: Some(Switches::of_slot(switches)),
                    node: Arc::clone(&part),
                    channel: channel.into(),
                    intake: intake.with_queue(&queue),
                    observer: Arc::new(Alone(Arc::clone(&queue))),
                    // Only the channel of the probes is subscribed to.
                    topics: Arc::default(),
                    streams: Some(Wanted { topics: Arc::clone(topics), slot: Some(slot) }),
                    health: Arc::clone(health),
                };
                let stop = stop.child_token();
                let (stopped, health, name) = (stop.clone(), Arc::clone(health), Arc::clone(&part));
                tasks.spawn(async move {
                    server.run(stopped).await;
                    health.remove_node(&name);
                });
                new.insert(StreamSlot { queue, master, part, used: Instant::now(), stop })
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
        self.slots[&slot::of(stream)].queue.load().publishes
    }

    /// Returns the name of the slot of a stream, if it has begun.
    #[cfg(test)]
    pub(super) fn part_of(&self, stream: &str) -> Option<Arc<str>> {
        self.slots.get(&slot::of(stream)).map(|slot| Arc::clone(&slot.part))
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
