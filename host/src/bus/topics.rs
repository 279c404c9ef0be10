//! The topics that this gateway wants to hear, and the changes that the subscriber has not sent to Redis yet.
//!
//! There are two kinds. The fixed topics are those that plugins subscribe to. They are few, and all publishes wait until
//! they are subscribed to. The topics that are listened to come and go with sessions. There may be a hundred thousand of
//! them. Only the publishes of the sessions that listen to a new one wait for it: see [`Queue`](super::Queue).
//!
//! A topic that is no longer wanted stays subscribed to for a short time. A client that connects again, or another
//! session of the same user, then costs Redis nothing and misses nothing.
//!
//! A queue of commands was rejected, because it would grow while Redis is away. Only the difference between what is
//! wanted and what was sent is kept, so a topic that comes and goes in the meantime costs nothing.

mod streams;

use super::queue::ChangeNumber;
use crate::config;
use std::{
    collections::{BTreeMap, BTreeSet},
    iter, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use streams::Streams;
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant},
};

/// The maximum number of topics, apart from the fixed ones, in one set of changes. It bounds the answers that Redis has
/// to hold for this connection, because Redis closes a connection that leaves 8 MB of answers unread.
const MAX_CHANGES: usize = 4096;

/// How long a topic stays subscribed to after the last session or group that wanted it has ended.
const LINGER: Duration = Duration::from_secs(2);

/// The topics that this gateway wants to hear. [`add`](Self::add) and [`remove`](Self::remove) take about a microsecond
/// and never wait for Redis, so they may be called under a lock.
#[derive(Debug)]
pub struct Topics {
    linger: Duration,
    table: Mutex<Table>,
    /// Notified when the subscriber has something to send.
    due: Notify,
    /// Marks the changes of the fixed topics.
    fixed_changed: watch::Sender<()>,
    /// Marks the changes of the streams that are wanted, and of those that have a position.
    streams_changed: watch::Sender<()>,
    /// Since when messages may have been lost of which the sessions were not told yet.
    gap_since: Mutex<Option<Instant>>,
}

/// Topics to subscribe to and to unsubscribe from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// The fixed topics to subscribe to.
    pub(super) fixed: Vec<Arc<str>>,
    /// The other topics to subscribe to.
    pub(super) added: Vec<Arc<str>>,
    /// The topics to unsubscribe from.
    pub(super) removed: Vec<Arc<str>>,
    /// All fixed topics, if they have changed or if there is a new connection.
    pub(super) news: Option<BTreeSet<String>>,
    /// The number of the last change, if these changes and the earlier ones are all that there are.
    pub(super) last: Option<ChangeNumber>,
}

/// What is wanted, what was sent, and the difference. The maps are trees because trees give their memory back when
/// topics end.
#[derive(Debug, Default)]
struct Table {
    fixed: BTreeSet<String>,
    /// The topics that are read instead of subscribed to. None of them is in the other fields, except in `fixed`.
    streams: Streams,
    /// Every topic that is listened to or subscribed to.
    topics: BTreeMap<Arc<str>, Topic>,
    /// The topics to send a command for: those that are either wanted or subscribed to, but not both, and do not linger.
    changed: BTreeSet<Arc<str>>,
    /// The topics that are subscribed to and no longer wanted, with the time until which they linger.
    lingering: BTreeSet<(Instant, Arc<str>)>,
    /// The number of the last change.
    last: ChangeNumber,
    /// Whether the fixed topics were the same at the last [`Topics::take`] on this connection.
    is_fixed_known: bool,
    /// Whether there was more at the last [`Topics::take`] than one set of changes holds.
    has_more: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Topic {
    /// Whether a session or a group wants the topic.
    is_listened_to: bool,
    /// Whether the last command for the topic on this connection was to subscribe to it.
    is_subscribed: bool,
    /// The number of the last change that began the topic.
    began: ChangeNumber,
    /// The time until which the topic lingers.
    lingers_until: Option<Instant>,
}

impl Default for Topics {
    fn default() -> Self {
        Self::new(LINGER)
    }
}

impl Topics {
    pub(super) fn new(linger: Duration) -> Self {
        Self {
            linger,
            table: Mutex::default(),
            due: Notify::default(),
            fixed_changed: watch::Sender::default(),
            streams_changed: watch::Sender::default(),
            gap_since: Mutex::default(),
        }
    }

    /// Records since when messages may have been lost, or that the sessions were told.
    pub(super) fn set_gap(&self, since: Option<Instant>) {
        *self.gap_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Returns since when messages may have been lost, if the sessions were not told yet.
    #[must_use]
    pub fn gap_since(&self) -> Option<Instant> {
        *self.gap_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes topics streams. It is called once, before the first [`take`](Self::take).
    pub(super) fn set_streams(&self, streams: config::Streams) {
        self.table().set_streams(streams);
        self.streams_changed.send_replace(());
    }

    /// Returns a receiver that is notified when other streams are wanted, and when one has a position.
    pub(super) fn stream_changes(&self) -> watch::Receiver<()> {
        self.streams_changed.subscribe()
    }

    /// Returns the streams that are wanted.
    pub fn streams(&self) -> Vec<Arc<str>> {
        self.table().streams.wanted()
    }

    /// Records in which streams the reader has a position, so that it misses no later entry, and which ones it leaves
    /// out.
    pub(super) fn begin_reading<'a>(
        &self,
        begun: impl Iterator<Item = &'a Arc<str>>,
        left_out: impl Iterator<Item = &'a Arc<str>>,
    ) {
        if self.table().streams.begin(begun, left_out) {
            self.streams_changed.send_replace(());
        }
    }

    /// Returns whether plugins subscribe to a topic.
    pub(super) fn is_fixed(&self, topic: &str) -> bool {
        self.table().fixed.contains(topic)
    }

    /// Returns whether the reader has a position in every stream that is wanted, or may leave it out.
    pub(super) fn are_streams_read(&self) -> bool {
        self.table().streams.have_positions()
    }

    /// Replaces the topics that plugins subscribe to. Publishes wait until Redis has carried out the change.
    pub fn set_fixed(&self, topics: BTreeSet<String>) {
        if self.table().set_fixed(topics) {
            self.due.notify_one();
            self.fixed_changed.send_replace(());
            self.streams_changed.send_replace(());
        }
    }

    /// Begins to listen to a topic. It is called when the first session or group of this gateway wants the topic. Returns
    /// the number of the change that subscribes to it.
    pub fn add(&self, topic: &str) -> ChangeNumber {
        let began = self.table().update(topic, None, |state| state.is_listened_to = true);
        self.notify(topic);
        began
    }

    /// Ends what [`add`](Self::add) began. It is called when the last session or group that wanted the topic has ended.
    pub fn remove(&self, topic: &str) {
        self.table().update(topic, Some(Instant::now() + self.linger), |state| state.is_listened_to = false);
        self.notify(topic);
    }

    fn notify(&self, topic: &str) {
        if self.table().streams.contains(topic) {
            self.streams_changed.send_replace(());
        } else {
            self.due.notify_one();
        }
    }

    /// Ends what [`add`](Self::add) began, for a topic that the server has already unsubscribed from.
    pub(super) fn forget(&self, topic: &str) {
        self.table().forget(topic);
    }

    /// Returns whether the last command for a topic was to subscribe to it.
    pub(super) fn subscribes_to(&self, topic: &str) -> bool {
        self.table().topics.get(topic).is_some_and(|state| state.is_subscribed)
    }

    /// Returns whether any topic is listened to or subscribed to, apart from streams.
    pub(super) fn has_any(&self) -> bool {
        !self.table().topics.is_empty()
    }

    /// Calls `visit` with the number of the last change. No change is made meanwhile.
    pub(super) fn with_last(&self, visit: impl FnOnce(ChangeNumber)) {
        visit(self.table().last);
    }

    /// Returns a receiver that is notified of changes of the fixed topics.
    pub(super) fn fixed_changes(&self) -> watch::Receiver<()> {
        self.fixed_changed.subscribe()
    }

    /// Waits until there is something to [`take`](Self::take): at once if the connection is new. Only one task may wait.
    /// Cancel-safe.
    pub(super) async fn changed(&self) {
        loop {
            let due = self.table().due(Instant::now());
            match due {
                Due::Now => return,
                Due::At(at) => {
                    // The outcome does not matter, because the table says what is due.
                    let _ = time::timeout_at(at, self.due.notified()).await;
                }
                Due::Later => self.due.notified().await,
            }
        }
    }

    /// Returns changes to send to Redis, and counts them as sent. The fixed topics come first. If there are too many
    /// changes for one set, the rest stays for the next call.
    pub(super) fn take(&self) -> Changes {
        self.table().take(Instant::now())
    }

    /// Records that the connection to Redis is lost, and with it all subscriptions. The next connection subscribes to
    /// everything that is wanted then.
    pub(super) fn lost(&self) {
        self.table().lost();
        self.due.notify_one();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When there is something to send.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Now,
    /// When a topic ceases to linger.
    At(Instant),
    /// After the next change.
    Later,
}

impl Table {
    /// Replaces the fixed topics. Returns whether they have changed.
    fn set_fixed(&mut self, topics: BTreeSet<String>) -> bool {
        let previous = mem::replace(&mut self.fixed, topics);
        let differing: Vec<_> = previous.symmetric_difference(&self.fixed).cloned().collect();
        for topic in &differing {
            self.update(topic, None, |_| {});
        }
        self.is_fixed_known &= differing.is_empty();
        !differing.is_empty()
    }

    /// Changes the state of a topic, and records whether Redis has to be sent a command for it. A topic that is no longer
    /// wanted lingers until `lingers_until`, if that is given. Returns the number of the change that began the topic.
    fn update(&mut self, topic: &str, lingers_until: Option<Instant>, change: impl FnOnce(&mut Topic)) -> ChangeNumber {
        if self.streams.contains(topic) {
            let mut state = Topic { is_listened_to: self.streams.is_listened_to(topic), ..Topic::default() };
            change(&mut state);
            self.streams.update(topic, self.fixed.contains(topic), state.is_listened_to);
            // The publisher waits for streams in another way.
            return 0;
        }
        let name: Arc<str> = topic.into();
        let state = self.topics.entry(Arc::clone(&name)).or_default();
        change(state);
        let is_wanted = state.is_listened_to || self.fixed.contains(topic);
        if let Some(until) = state.lingers_until.take() {
            self.lingering.remove(&(until, Arc::clone(&name)));
        }
        match (is_wanted, state.is_subscribed) {
            (true, false) => {
                if self.changed.insert(name) {
                    self.last += 1;
                    state.began = self.last;
                }
            }
            (false, true) => match lingers_until {
                Some(until) => {
                    state.lingers_until = Some(until);
                    self.lingering.insert((until, name));
                }
                None => _ = self.changed.insert(name),
            },
            _ => _ = self.changed.remove(topic),
        }
        let Topic { is_listened_to, is_subscribed, began, .. } = *state;
        if !is_listened_to && !is_subscribed {
            self.topics.remove(topic);
        }
        began
    }

    fn forget(&mut self, topic: &str) {
        if let Some((name, state)) = self.topics.remove_entry(topic) {
            self.changed.remove(topic);
            if let Some(until) = state.lingers_until {
                self.lingering.remove(&(until, name));
            }
        }
    }

    fn set_streams(&mut self, streams: config::Streams) {
        self.streams = Streams::new(streams);
        let known = self.topics.extract_if(.., |topic, _| self.streams.contains(topic));
        let listened: Vec<_> = known.filter(|(_, state)| state.is_listened_to).map(|(topic, _)| topic).collect();
        self.changed.retain(|topic| !self.streams.contains(topic));
        for topic in self.fixed.iter().filter(|topic| self.streams.contains(topic)).cloned().collect::<Vec<_>>() {
            self.update(&topic, None, |_| {});
        }
        for topic in listened {
            self.update(&topic, None, |state| state.is_listened_to = true);
        }
    }

    fn due(&self, now: Instant) -> Due {
        // If the rest is not wanted any more, its number is still waited for.
        if !self.changed.is_empty() || !self.is_fixed_known || self.has_more {
            return Due::Now;
        }
        match self.lingering.first() {
            Some((until, _)) if *until <= now => Due::Now,
            Some((until, _)) => Due::At(*until),
            None => Due::Later,
        }
    }

    fn take(&mut self, now: Instant) -> Changes {
        let Self { fixed, topics, changed, lingering, last, is_fixed_known, has_more, .. } = self;
        while lingering.first().is_some_and(|(until, _)| *until <= now) {
            changed.extend(lingering.pop_first().map(|(_, topic)| topic));
        }
        let mut changes = Changes {
            fixed: fixed.iter().filter_map(|topic| changed.take(topic.as_str())).collect(),
            news: (!*is_fixed_known).then(|| fixed.clone()),
            ..Changes::default()
        };
        *is_fixed_known = true;
        for topic in iter::from_fn(|| changed.pop_first()).take(MAX_CHANGES) {
            let is_wanted = topics.get(&topic).is_some_and(|state| state.is_listened_to);
            if is_wanted { &mut changes.added } else { &mut changes.removed }.push(topic);
        }
        for topic in changes.fixed.iter().chain(&changes.added) {
            topics.entry(Arc::clone(topic)).or_default().is_subscribed = true;
        }
        for topic in &changes.removed {
            topics.remove(topic);
        }
        *has_more = !changed.is_empty();
        changes.last = (!*has_more).then_some(*last);
        changes
    }

    fn lost(&mut self) {
        self.topics.retain(|_, state| {
            state.is_subscribed = false;
            state.lingers_until = None;
            state.is_listened_to
        });
        let fixed = self.fixed.iter().filter(|topic| !self.streams.contains(topic)).map(|topic| topic.as_str().into());
        self.changed = self.topics.keys().cloned().chain(fixed).collect();
        self.lingering.clear();
        self.is_fixed_known = false;
        self.has_more = false;
    }
}

#[cfg(test)]
mod tests;
