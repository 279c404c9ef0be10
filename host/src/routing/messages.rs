//! The messages of the bus. They are handled in their order: the actions for one message are carried out before those for
//! the next. If many messages arrive together, other worker threads call the plugins for the later ones meanwhile.
//!
//! A plugin decides and does nothing, so a decision can be made early. If it is of no use at the turn of its message, for
//! example because a message before it has changed what it had read, the plugin is called again. See [`early`].
//!
//! Workers for the topics were rejected. The deliveries to one session would lose their order, because they may arrive
//! on several topics, and all messages on one topic would still be decided on by one thread.
//!
//! [`early`]: super::early

use super::{
    calls::{Call, Occasion},
    early::Early,
    gateway::Gateway,
    origin::Origin,
    progress::Progress,
    reach::{Reach, Tally},
    refusal::Refusal,
    snapshot::{ServingPlugin, Snapshot},
    turn::Turn,
};
use crate::{
    bus::Message,
    plugin::{self, trace},
};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
    vec,
};
use tokio::{
    runtime::Handle,
    sync::oneshot::{self, error::TryRecvError},
    task,
};

/// The number of messages that a thread decides on at once.
const PIECE: usize = 16;

/// The time that the rest of the messages has to take for other threads to take part. For less, waking them up costs more
/// than it saves: the plugin `chat` takes 0.7 µs for a message, and 500 of them took as long with a second thread.
const MIN_SHARED: Duration = Duration::from_micros(500);

/// The size of the messages in early decisions, in bytes, after which no more decisions are made early.
const MAX_EARLY_BYTES: usize = 4 << 20;

/// Messages that one thread decides on.
type Piece = Arc<Vec<Message<Origin>>>;

/// The early decisions on a piece, one for each message.
type Decisions = Vec<Option<Early>>;

/// The pieces that no thread decides on yet.
struct Pieces {
    gateway: Arc<Gateway>,
    snapshot: Arc<Snapshot>,
    waiting: Mutex<VecDeque<(Piece, oneshot::Sender<Decisions>)>>,
    /// The size of the messages in the decisions so far, in bytes.
    bytes: AtomicUsize,
}

impl Pieces {
    /// Decides on the messages of the next piece. Returns false if there is none.
    fn decide_next(&self) -> bool {
        let next = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some((messages, decisions)) = next else { return false };
        let decide = |message: &Message<Origin>| {
            if self.bytes.load(Ordering::Relaxed) > MAX_EARLY_BYTES {
                return None;
            }
            // The first plugin that hears the message is usually the only one.
            let served = self.gateway.hearers(&message.topic, &self.snapshot).next()?;
            let early = self.gateway.decide_early(&call(served, message), &self.snapshot)?;
            self.bytes.fetch_add(early.bytes(), Ordering::Relaxed);
            Some(early)
        };
        // An error means that the bus has ended.
        let _ = decisions.send(messages.iter().map(decide).collect());
        true
    }
}

impl Gateway {
    /// Handles messages in their order. Returns those that no plugin hears.
    pub(super) async fn on_messages(self: &Arc<Self>, messages: Vec<Message<Origin>>) -> Vec<Message<Origin>> {
        let (mut unheard, mut rest) = (Vec::new(), messages.into_iter());
        let mut turn = Turn::new(&self.metrics);
        let began = (rest.len() > PIECE).then(Instant::now);
        self.handle_all(rest.by_ref().take(PIECE), &mut turn, &mut unheard);
        let estimate = began.map(|began| began.elapsed() / PIECE as u32 * rest.len() as u32);
        let helpers = helpers(Handle::current().metrics().num_workers());
        // A trace has each call once, and in its turn.
        if helpers > 0 && estimate.is_some_and(|estimate| estimate >= MIN_SHARED) && !trace::is_on() {
            self.share(rest, helpers, &mut turn, &mut unheard).await;
        } else {
            self.handle_all(rest, &mut turn, &mut unheard);
        }
        unheard
    }

    fn handle_all(
        self: &Arc<Self>,
        messages: impl Iterator<Item = Message<Origin>>,
        turn: &mut Turn<'_>,
        unheard: &mut Vec<Message<Origin>>,
    ) {
        unheard.extend(messages.filter(|message| turn.run(|| self.on_message(message)) == 0));
    }

    /// Handles messages in their order while up to `helpers` other threads call the plugins.
    async fn share(
        self: &Arc<Self>,
        mut rest: vec::IntoIter<Message<Origin>>,
        helpers: usize,
        turn: &mut Turn<'_>,
        unheard: &mut Vec<Message<Origin>>,
    ) {
        // The decisions may take long.
        turn.end();
        let (mut pieces, mut waiting) = (Vec::new(), VecDeque::new());
        while rest.len() > 0 {
            let piece = Arc::new(rest.by_ref().take(PIECE).collect::<Vec<_>>());
            let (sender, decisions) = oneshot::channel();
            waiting.push_back((Arc::clone(&piece), sender));
            pieces.push((piece, decisions));
        }
        let waiting = Pieces {
            gateway: Arc::clone(self),
            snapshot: self.snapshot.load_full(),
            waiting: Mutex::new(waiting),
            bytes: AtomicUsize::default(),
        };
        let waiting = Arc::new(waiting);
        for _ in 0..helpers.min(pieces.len() - 1) {
            let waiting = Arc::clone(&waiting);
            task::spawn(async move {
                while waiting.decide_next() {
                    task::yield_now().await;
                }
            });
        }
        for (piece, mut decisions) in pieces {
            let decisions = loop {
                match decisions.try_recv() {
                    Ok(decisions) => break decisions,
                    Err(TryRecvError::Empty) if waiting.decide_next() => {}
                    // Without decisions, the plugins are called when it is the message's turn.
                    Err(_) => break decisions.await.unwrap_or_default(),
                }
            };
            let mut decisions = decisions.into_iter();
            for message in &*piece {
                if turn.run(|| self.handle(message, decisions.next().flatten())) == 0 {
                    unheard.push(message.clone());
                }
            }
            turn.end();
        }
    }

    /// Passes a message to the plugins that hear its topic, or to the host. Returns how many hear the topic.
    pub fn on_message(self: &Arc<Self>, message: &Message<Origin>) -> usize {
        self.handle(message, None)
    }

    fn handle(self: &Arc<Self>, message: &Message<Origin>, mut early: Option<Early>) -> usize {
        let snapshot = self.snapshot.load();
        let mut tally = Tally::new(&self.metrics);
        let mut count = 0;
        for served in self.hearers(&message.topic, &snapshot) {
            count += 1;
            let call = call(served, message);
            let early = early.take_if(|early| early.is_of(served));
            let progress = early.and_then(|early| self.serve_early(&call, early));
            let progress = progress.unwrap_or_else(|| self.serve(&call, &snapshot));
            served.account.pause.pass();
            let reach = progress.and_then(|progress| match progress {
                Progress::Done(reach) => Ok(reach),
                Progress::Left(rest) => {
                    let tally = tally.shared();
                    self.offload(call.owned(), Arc::clone(&snapshot), rest, move |gateway, call, outcome| {
                        tally.add(gateway.reach_of(call, outcome));
                    })
                    .map(|()| Reach::NotHere)
                }
            });
            tally.add(self.reach_of(&call, reach));
        }
        if count > 0 {
            tally.count();
        }
        // No plugin can hear the host's topic, so messages for plugins do not pay for the comparison.
        if count == 0 && message.topic.starts_with(plugin::HOST_TOPIC) {
            self.on_host_message(message, &snapshot);
            return 1;
        }
        count
    }

    /// Handles a message that another gateway has sent to the host.
    fn on_host_message(&self, message: &Message<Origin>, snapshot: &Snapshot) {
        self.metrics.heard_here.inc();
        if message.topic == plugin::HOST_TOPIC {
            self.closings.on_message(&message.body);
        } else {
            let is_busy = snapshot.plugins().any(|plugin| plugin.offload_thread().has_messages());
            self.handovers.on_message(&message.topic, &message.body, is_busy);
        }
    }

    /// Returns the plugins that hear a topic.
    pub(super) fn hearers<'a>(
        &'a self,
        topic: &'a str,
        snapshot: &'a Snapshot,
    ) -> impl Iterator<Item = &'a Arc<ServingPlugin>> {
        let subscribers = snapshot.subscribers(topic);
        let listeners = snapshot.served().iter().filter(move |served| {
            // Most messages are for plugins that subscribe to the topic anyway, and need no look-up.
            let owner = &served.account.owner;
            owner.interests() > 0
                && served.plugin.takes().messages
                && !subscribers.iter().any(|other| Arc::ptr_eq(other, served))
                && self.heard.is_heard_by(owner, topic)
        });
        subscribers.iter().chain(listeners)
    }

    /// Returns what a call for a message has led to. A call that was not served says nothing about whom the message is
    /// for, so the message does not count as one for nobody.
    fn reach_of(&self, call: &Call<'_>, outcome: Result<Reach, Refusal>) -> Reach {
        outcome.unwrap_or_else(|refusal| {
            self.record_loss(call, &refusal);
            Reach::Here
        })
    }
}

/// Returns the number of threads that decide on messages besides the bus's own. If there are more than two workers, one
/// of them stays free, because plugins may take long and somebody has to serve the sockets.
fn helpers(workers: usize) -> usize {
    if workers > 2 { workers - 2 } else { workers.saturating_sub(1) }
}

fn call<'a>(served: &'a Arc<ServingPlugin>, message: &'a Message<Origin>) -> Call<'a> {
    let Message { topic, body, cause, is_entry } = message;
    Call { served, occasion: Occasion::Message { topic, payload: body, cause: *cause, is_entry: *is_entry } }
}

#[cfg(test)]
mod tests {
    use super::helpers;

    #[test]
    fn a_worker_stays_free_if_there_are_more_than_two() {
        assert_eq!([1, 2, 3, 4, 16].map(helpers), [0, 1, 1, 2, 14]);
    }
}
