//! One master of the Cluster: its connections, its queue, its topics, and what it reports.

use super::slots::Slots;
use crate::{
    bus::{
        batch::{Batch, OwnedPublication, Publication},
        health::{Direction, Health, Part},
        intake::{Handler, Intake},
        queue::{ChangeNumber, Queue},
        redis::{observer::Observer, server::Server, slot, words::SHARDED},
        topics::Topics,
    },
    config,
};
use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The maximum number of publishes that came back and wait for the answer about the masters.
const MAX_RETURNED: usize = 32 * 1024;

/// How long publishes wait for a node that was not reached yet, or for the answer of a node that has refused them.
const GRACE: Duration = Duration::from_secs(5);

/// The number of a node. A node that is replaced gets another number, even if its address stays the same.
pub(super) type Number = u64;

/// A master, and what belongs to it. `O` is the type of a publish's origin.
pub(super) struct Node<O> {
    pub(super) number: Number,
    /// `host:port`.
    pub(super) address: Arc<str>,
    /// The topics that are wanted and belong to the node. They do not linger here, because they have lingered before.
    pub(super) topics: Arc<Topics>,
    queue: Arc<Queue<O>>,
    state: Arc<State<O>>,
    /// The channel of the probes, which has to belong to the node.
    channel: Arc<str>,
    part: Arc<str>,
    pub(super) began: Instant,
    /// When the node was last asked for the masters, if it has answered.
    pub(super) asked: Option<Instant>,
    stop: CancellationToken,
}

/// What the connections of a node report.
struct State<O> {
    number: Number,
    known: Mutex<Known>,
    reports: Arc<Reports<O>>,
}

#[derive(Default)]
struct Known {
    /// The last change of the node's topics that it has carried out, or `None` if it was never reached.
    carried_out: Option<ChangeNumber>,
    /// Since when the node may not hear messages, if its subscriptions are lost.
    lost_since: Option<Instant>,
    /// The slots for which the node has said that another one is responsible, with the time at which it first said so. The
    /// slot is `None` if the node has said that it does not know who is.
    misplaced: BTreeMap<Option<u16>, Instant>,
}

/// What all nodes report.
pub(super) struct Reports<O> {
    changed: Notify,
    returned: Mutex<Vec<Returned<O>>>,
}

/// A publish that a node has refused, because another one is responsible for its topic.
pub(super) struct Returned<O> {
    /// The node, or `None` if it has not seen the publish.
    pub(super) by: Option<Number>,
    at: Instant,
    pub(super) publication: OwnedPublication<O>,
}

impl<O> Default for Reports<O> {
    fn default() -> Self {
        Self { changed: Notify::default(), returned: Mutex::default() }
    }
}

impl<O> Reports<O> {
    /// Waits until there is something new. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes the publishes that came back, in the order in which they did.
    pub(super) fn take_returned(&self) -> Vec<Returned<O>> {
        mem::take(&mut self.returned())
    }

    /// Puts publishes back that [`take_returned`](Self::take_returned) has returned.
    pub(super) fn put_back(&self, publishes: Vec<Returned<O>>) {
        self.returned().splice(..0, publishes);
    }

    fn returned(&self) -> MutexGuard<'_, Vec<Returned<O>>> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O> Returned<O> {
    /// Returns whether the node at the address `by`, which has refused the publish, may still say who is responsible, if
    /// the last answer is that of the node `asked` to a question at the time `asked_at`.
    pub(super) fn waits_for_answer(&self, by: &str, asked: &str, asked_at: Instant) -> bool {
        (by != asked || asked_at < self.at) && self.at.elapsed() < GRACE
    }
}

impl<O: Copy + Send + Sync + 'static> Node<O> {
    /// Starts the connections to a master, in a task that ends when the node is stopped.
    pub(super) fn start<H: Handler<Origin = O>>(
        number: Number,
        (address, slots): (&Arc<str>, &Slots),
        config: config::Redis,
        (intake, health): (&Arc<Intake<H>>, &Arc<Health>),
        reports: &Arc<Reports<O>>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let id = Uuid::new_v4();
        let is_own = |channel: &String| slots.master_of(slot::of(channel)) == Some(address);
        let channel = (0..).map(|i| format!("gateway:{id}:{i}")).find(is_own).expect("a master has a slot").into();
        let state = State { number, known: Mutex::default(), reports: Arc::clone(reports) };
        let node = Self {
            number,
            address: Arc::clone(address),
            topics: Arc::new(Topics::new(Duration::ZERO)),
            queue: Arc::default(),
            state: Arc::new(state),
            channel,
            part: format!("{address}#{number}").into(),
            began: Instant::now(),
            asked: None,
            stop: CancellationToken::new(),
        };
        for direction in [Direction::Publish, Direction::Subscribe] {
            health.begin(&Part { direction, node: Arc::clone(&node.part) });
        }
        let server = Server {
            config,
            words: &SHARDED,
            master: None,
            node: Arc::clone(&node.part),
            channel: Arc::clone(&node.channel),
            intake: intake.with_queue(&node.queue),
            observer: Arc::clone(&node.state) as Arc<dyn Observer<O>>,
            topics: Arc::clone(&node.topics),
            // The connections of the slots read them.
            streams: None,
            health: Arc::clone(health),
        };
        let (stop, health, part) = (node.stop.clone(), Arc::clone(health), Arc::clone(&node.part));
        tasks.spawn(async move {
            server.run(stop).await;
            health.remove_node(&part);
        });
        node
    }

    /// Queues a publish. Returns false if the node's queue is full.
    pub(super) fn queue(&self, publication: &Publication<'_, O>) -> bool {
        self.queue.pass_on(publication)
    }

    /// Stops the node, which publishes what is queued.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Stops the node, and takes back what is queued.
    pub(super) fn leave(&self) -> Vec<Returned<O>> {
        let mut batch = Batch::default();
        self.queue.take_now(&mut batch);
        self.stop.cancel();
        let returned = |publication: Publication<'_, O>| Returned::new(None, &publication);
        batch.iter().map(returned).collect()
    }

    /// Returns whether the master still has the slot of the node's own channel.
    pub(super) fn has_own_channel(&self, slots: &Slots) -> bool {
        slots.master_of(slot::of(&self.channel)) == Some(&self.address)
    }

    /// Returns what the connections of the node report to.
    #[cfg(test)]
    pub(super) fn observer(&self) -> &impl Observer<O> {
        &*self.state
    }

    /// Returns the number of queued publishes.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.queue.load().publishes
    }

    pub(super) fn has_carried_out(&self, change: ChangeNumber) -> bool {
        // Change 0 is what there is before the first change.
        self.state.known().carried_out.unwrap_or(0) >= change
    }

    /// Returns since when the node may not hear all messages, if it may not.
    pub(super) fn in_trouble_since(&self) -> Option<Instant> {
        let known = self.state.known();
        self.away_since(&known).into_iter().chain(known.misplaced.values().copied()).min()
    }

    /// Returns whether the subscriptions at the node are lost, or the node was not reached for so long that it may be
    /// gone.
    pub(super) fn is_away(&self) -> bool {
        self.away_since(&self.state.known()).is_some()
    }

    fn away_since(&self, known: &Known) -> Option<Instant> {
        let is_missing = known.carried_out.is_none() && self.began.elapsed() > GRACE;
        known.lost_since.into_iter().chain(is_missing.then_some(self.began)).min()
    }

    /// Returns whether the node has said that another one is responsible for a topic.
    pub(super) fn is_misplaced(&self) -> bool {
        !self.state.known().misplaced.is_empty()
    }

    /// Forgets what the node has said about slots that have moved since. `answered` is when the node was asked for its slots,
    /// if it was. Returns whether it has claimed a slot then although it had said before that another one is responsible.
    pub(super) fn contradicts(&self, slots: &Slots, answered: Option<Instant>) -> bool {
        let mut contradicts = false;
        self.state.known().misplaced.retain(|slot, since| {
            let is_own = slot.is_none_or(|slot| slots.master_of(slot) == Some(&self.address));
            let is_answered = answered.is_some_and(|answered| *since <= answered);
            contradicts |= is_own && is_answered && slot.is_some();
            is_own && !is_answered
        });
        contradicts
    }
}

impl<O: Copy> Returned<O> {
    fn new(by: Option<Number>, publication: &Publication<'_, O>) -> Self {
        Self { by, at: Instant::now(), publication: publication.to_owned() }
    }
}

impl<O> State<O> {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known());
        self.reports.changed.notify_one();
    }
}

impl<O: Copy + Send> Observer<O> for State<O> {
    fn began(&self, _: ChangeNumber) {}

    fn carried_out(&self, change: ChangeNumber) {
        self.report(|known| {
            known.carried_out = Some(change);
            known.lost_since = None;
        });
    }

    fn lost(&self, worked_until: Option<Instant>) {
        let since = worked_until.unwrap_or_else(Instant::now);
        self.report(|known| known.lost_since = known.lost_since.or(Some(since)));
    }

    fn misplaced(&self, slot: Option<u16>) {
        self.report(|known| {
            known.misplaced.entry(slot).or_insert_with(Instant::now);
        });
    }

    fn take_back(&self, publication: &Publication<'_, O>) -> bool {
        let mut returned = self.reports.returned();
        if returned.len() >= MAX_RETURNED {
            return false;
        }
        returned.push(Returned::new(Some(self.number), publication));
        drop(returned);
        self.misplaced(Some(slot::of(publication.topic)));
        true
    }
}
