//! The bus over a Redis Cluster of version 7 or later, with sharded publish and subscribe.
//!
//! Each topic belongs to a slot, and each slot to a master. For each master there is the same pair of connections as for
//! a single server, with a queue and topics of its own. So a master that fails holds up only what belongs to it. This
//! module finds the masters, and passes publishes and topics on to the right ones.
//!
//! When slots move, their topics are subscribed to at the new master, and then the sessions are told of a gap, because
//! messages may have been lost in between. Publishes that the old master refuses come back and are passed on again. The
//! order of the publishes to a topic may change then, and only then. Streams keep theirs: see [`streams`].

mod node;
mod placement;
mod publishes;
mod slots;
mod streams;
#[cfg(test)]
mod tests;

use super::error::LinkError;
use crate::{
    bus::{
        batch::{Batch, Publication},
        health::{Direction, Health, Part},
        intake::{Handler, Intake, NotTaken},
        topics::Topics,
    },
    config,
};
use node::{Node, Number, Reports, Returned};
use placement::{Change, Masters, Move, Placed, Places, is_done};
use publishes::{Patience, Way};
use slots::{Directory, Slots};
use std::{
    collections::{BTreeMap, VecDeque},
    mem, panic,
    sync::Arc,
    time::Duration,
};
use streams::StreamSlots;
use tokio::{
    task::{JoinError, JoinSet},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

/// How often the masters are asked for while everything works.
const REFRESH: Duration = Duration::from_secs(10);

/// How often the masters are asked for after something has failed, until everything works again.
const RETRY: Duration = Duration::from_millis(200);

/// Runs the bus until `stop`, and then until every queued publish is published or refused.
///
/// # Panics
/// Panics if the task of a node has panicked.
pub(super) async fn run<H: Handler>(
    config: config::Redis,
    intake: Arc<Intake<H>>,
    topics: Arc<Topics>,
    health: Arc<Health>,
    stop: CancellationToken,
) {
    Cluster::new(config, intake, topics, health).run(stop).await;
}

struct Cluster<H: Handler> {
    directory: Directory,
    intake: Arc<Intake<H>>,
    topics: Arc<Topics>,
    health: Arc<Health>,
    reports: Arc<Reports<H::Origin>>,
    /// Which master each slot belongs to.
    slots: Slots,
    /// Whether a node has answered which master each slot belongs to.
    is_known: bool,
    /// The nodes by their addresses.
    nodes: BTreeMap<Arc<str>, Node<H::Origin>>,
    /// The slots with topics that are streams.
    streams: StreamSlots<H>,
    /// The number of the node that began last.
    last: Number,
    placed: Placed,
    /// The changes of the wanted topics that not all nodes have carried out, in their order.
    waiting: VecDeque<Change>,
    /// The moves of topics that not all nodes have carried out.
    moves: Vec<Move>,
    patience: Patience,
    /// The tasks of the nodes, and those that tell of gaps.
    tasks: JoinSet<()>,
}

impl<H: Handler> Cluster<H> {
    fn new(config: config::Redis, intake: Arc<Intake<H>>, topics: Arc<Topics>, health: Arc<Health>) -> Self {
        topics.set_streams(config.streams.clone());
        let directory = Directory::new(config);
        Self {
            streams: StreamSlots::new(directory.config().clone(), &intake, &topics, &health),
            directory,
            intake,
            topics,
            health,
            reports: Arc::default(),
            slots: Slots::default(),
            is_known: false,
            nodes: BTreeMap::new(),
            last: 0,
            placed: Placed::default(),
            waiting: VecDeque::new(),
            moves: Vec::new(),
            patience: Patience::default(),
            tasks: JoinSet::new(),
        }
    }

    async fn run(mut self, stop: CancellationToken) {
        let front = Arc::clone(&self.intake.queue);
        front.set_disconnected(true);
        // Publishes that wait for later changes are held back from here on.
        self.topics.with_last(|last| front.set_carried_out(last));
        let (reports, mut batch, mut asking) = (Arc::clone(&self.reports), Batch::default(), JoinSet::new());
        let (mut next_ask, mut asked_at) = (Instant::now(), Instant::now());
        let mut streams = self.topics.stream_changes();
        streams.mark_changed();
        let health = Arc::clone(&self.health);
        loop {
            let (is_known, way) = (self.is_known, self.way_of_publishes());
            let look_again_at = self.patience.ends.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                () = stop.cancelled(), if !front.is_closed() => front.close(),
                Some(ended) = self.tasks.join_next() => resume(ended),
                Some(found) = asking.join_next() => {
                    self.found(resume(found), asked_at);
                    self.streams.end_unused(Instant::now());
                    let is_good = self.health.error().is_none() && !self.is_in_trouble();
                    next_ask = Instant::now() + if is_good { REFRESH } else { RETRY };
                }
                () = reports.changed() => {
                    self.settle_changes();
                    if self.is_in_trouble() {
                        next_ask = next_ask.min(Instant::now() + RETRY);
                    }
                }
                () = health.has_failed() => next_ask = next_ask.min(Instant::now() + RETRY),
                Ok(()) = streams.changed() => self.streams.begin_wanted(&self.slots, &mut self.tasks),
                () = time::sleep_until(next_ask), if asking.is_empty() => {
                    asked_at = Instant::now();
                    asking.spawn(self.directory.clone().ask(self.to_ask()));
                }
                () = self.topics.changed(), if is_known => self.change_topics(),
                () = time::sleep_until(look_again_at), if way == Way::Wait || !batch.is_empty() => {}
                () = front.take(&mut batch), if batch.is_empty() && way != Way::Wait => {
                    if batch.is_empty() {
                        break;
                    }
                }
            }
            // A stream may have become wanted while they were taken, so they may have to wait.
            self.publish(&mut batch);
        }
        self.nodes.values().for_each(Node::stop);
        self.streams.stop();
        while let Some(ended) = self.tasks.join_next().await {
            resume(ended);
        }
        let unsettled = self.reports.take_returned();
        unsettled
            .iter()
            .for_each(|returned| self.intake.refuse(&returned.publication.borrow(), &NotTaken::NotConnected));
    }

    /// Returns what becomes of publishes now. They need the masters, and readers of the streams in which answers may come.
    fn way_of_publishes(&mut self) -> Way {
        self.patience.way(self.is_known && self.topics.are_streams_read(), self.intake.queue.is_closed())
    }

    /// Passes publishes on, or refuses them, or leaves them if they have to wait.
    fn publish(&mut self, batch: &mut Batch<H::Origin>) {
        let way = self.way_of_publishes();
        if way == Way::Wait {
            return;
        }
        self.intake.refuse_abandoned(batch);
        for publication in batch.iter() {
            match way {
                Way::PassOn => self.pass_on(&publication),
                _ => self.intake.refuse(&publication, &NotTaken::NotConnected),
            }
        }
        batch.clear();
    }

    /// Passes a publish on to the node or the slot of its topic.
    fn pass_on(&mut self, publication: &Publication<'_, H::Origin>) {
        let is_queued = if self.streams.takes(publication.topic) {
            self.streams.queue(publication, &self.slots, &mut self.tasks)
        } else {
            self.node_of(publication.topic).is_some_and(|node| node.queue(publication))
        };
        if !is_queued {
            self.intake.refuse(publication, &NotTaken::NotConnected);
        }
    }

    fn node_of(&self, topic: &str) -> Option<&Node<H::Origin>> {
        Masters { nodes: &self.nodes, slots: &self.slots }.of(topic)
    }

    fn is_in_trouble(&self) -> bool {
        self.nodes.values().any(|node| node.in_trouble_since().is_some())
    }

    /// Returns the addresses of the nodes to ask for the masters, the best ones first. A node whose slots have moved
    /// knows it before the others, and a node that is away may not answer. If several may have lost slots, they take
    /// turns.
    fn to_ask(&self) -> Vec<Arc<str>> {
        let mut nodes: Vec<_> = self.nodes.values().collect();
        nodes.sort_by_cached_key(|node| {
            let may_have_lost_slots = node.is_misplaced() || self.streams.doubt(&node.address, &self.slots);
            (node.is_away(), !may_have_lost_slots, node.asked)
        });
        nodes.into_iter().map(|node| Arc::clone(&node.address)).collect()
    }

    /// Passes changes of the wanted topics on to the nodes.
    fn change_topics(&mut self) {
        let changes = self.topics.take();
        let mut at = Places::new();
        let masters = Masters { nodes: &self.nodes, slots: &self.slots };
        if let Some(fixed) = changes.news {
            let channels = fixed.into_iter().filter(|topic| !self.streams.takes(topic));
            self.placed.set_fixed(channels, &masters, |topic| self.topics.subscribes_to(topic), &mut at);
        }
        changes.removed.iter().for_each(|topic| self.placed.remove(topic, &masters));
        changes.added.into_iter().for_each(|topic| self.placed.add(topic, &masters, &mut at));
        self.waiting.push_back(Change { last: changes.last, at });
        self.settle_changes();
    }

    /// Finishes the changes that all nodes have carried out. Publishes do not wait for a node that is lost, as it may
    /// be away for long, and the clients are told of the gap.
    fn settle_changes(&mut self) {
        let nodes = &self.nodes;
        let done = self.waiting.iter().take_while(|change| is_done(nodes, &change.at, Node::is_away)).count();
        let moved: Vec<_> = self.moves.extract_if(.., |moved| is_done(nodes, &moved.at, |_| false)).collect();
        for change in self.waiting.drain(..done) {
            if let Some(last) = change.last {
                self.intake.queue.set_carried_out(last);
            }
        }
        for Move { blind_since, .. } in moved {
            let intake = Arc::clone(&self.intake);
            self.tasks.spawn(async move { intake.handler.missed(blind_since.elapsed()).await });
        }
    }

    /// Handles the answer to the question for the masters, which was asked at the time `asked_at`.
    fn found(&mut self, found: Result<(Arc<str>, Slots), LinkError>, asked_at: Instant) {
        let connecting = [Direction::Publish, Direction::Subscribe].map(Part::from);
        match found {
            Ok((asked, view)) => {
                self.apply(&asked, &view, asked_at);
                if !mem::replace(&mut self.is_known, true) {
                    self.intake.queue.set_disconnected(false);
                    connecting.iter().for_each(|part| self.health.set(part, None));
                }
            }
            Err(error) => {
                let redis = self.directory.place();
                if self.intake.metrics.log_limits.permit("cluster unknown", "") {
                    tracing::warn!(%redis, %error, "no node of the Cluster says which masters there are, trying again");
                }
                // The masters that are known are used on, and each of them reports whether it is connected.
                if !self.is_known {
                    self.health.set(&connecting[0], Some(format!("redis {redis}: {error}")));
                }
            }
        }
    }

    /// Makes the nodes, the topics and the publishes follow what the node at the address `asked` has said since the time
    /// `asked_at`.
    fn apply(&mut self, asked: &str, view: &Slots, asked_at: Instant) {
        let blind_since = self.nodes.values().filter_map(Node::in_trouble_since).min().unwrap_or_else(Instant::now);
        let mut returned = self.reports.take_returned();
        self.slots.learn(view, asked, |address| self.nodes.get(address).is_none_or(Node::is_away));
        self.streams.follow(&self.slots);
        if let Some(node) = self.nodes.get_mut(asked) {
            node.asked = Some(asked_at);
        }
        let slots = self.slots.clone();
        let has_to_go = |node: &&Node<H::Origin>| {
            let answered = (*node.address == *asked).then_some(asked_at);
            node.contradicts(&slots, answered) || !node.has_own_channel(&slots)
        };
        let gone = self.nodes.values().filter(has_to_go).map(|node| Arc::clone(&node.address));
        for address in gone.collect::<Vec<_>>() {
            returned.extend(self.leave(&address));
        }
        for address in slots.masters() {
            if !self.nodes.contains_key(address) {
                self.last += 1;
                let (config, bus) = (self.directory.config_of(address), (&self.intake, &self.health));
                let node = Node::start(self.last, (address, &slots), config, bus, &self.reports, &mut self.tasks);
                tracing::info!(node = &**address, "connecting to a master of the Cluster");
                self.nodes.insert(Arc::clone(address), node);
            }
        }
        let mut at = Places::new();
        let masters = Masters { nodes: &self.nodes, slots: &self.slots };
        if self.placed.follow(&masters, &mut at) {
            self.moves.push(Move { blind_since, at });
        }
        let mut unanswered = Vec::new();
        for publish in returned {
            let publication = publish.publication.borrow();
            match self.node_of(publication.topic).filter(|node| publish.by == Some(node.number)) {
                // The node has refused it, and was not asked since who is responsible.
                Some(node) if publish.waits_for_answer(&node.address, asked, asked_at) => unanswered.push(publish),
                // It would refuse it again and again.
                Some(_) => self.intake.refuse(&publication, &NotTaken::Refused),
                None => self.pass_on(&publication),
            }
        }
        self.reports.put_back(unanswered);
        self.settle_changes();
    }

    /// Ends the connections to a node. Returns the publishes that it has not sent.
    fn leave(&mut self, address: &str) -> Vec<Returned<H::Origin>> {
        let Some(node) = self.nodes.remove(address) else { return Vec::new() };
        tracing::info!(node = address, "the connections to a master of the Cluster end");
        node.leave()
    }
}

/// Returns what a task has returned.
///
/// # Panics
/// Panics if the task has panicked.
fn resume<T>(ended: Result<T, JoinError>) -> T {
    ended.unwrap_or_else(|error| panic::resume_unwind(error.into_panic()))
}
