//! The simulated gateway of a [`Harness`](super::Harness): the sessions, and what the gateway keeps for the plugin.

use super::{
    reads::{self, Reads},
    rules::Call,
};
use crate::{Action, Closing, Delivery, Holder, Keep, Measurement, Membership, Metric, MetricKind, SessionId, Target};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A push that a session received.
#[derive(Clone, Debug, PartialEq)]
pub struct Push {
    /// The route byte.
    pub route: u8,
    /// The payload.
    pub body: Vec<u8>,
    /// What may happen to the push while it waits for a slow client.
    pub keep: Keep,
}

impl Push {
    /// Creates a push that waits for a slow client, with [`Keep::Always`].
    pub fn new(route: u8, body: impl Into<Vec<u8>>) -> Self {
        Self { route, body: body.into(), keep: Keep::Always }
    }
}

/// The state of the simulated gateway.
#[derive(Default)]
pub(super) struct World {
    pub(super) reads: Reads,
    pub(super) sessions: BTreeMap<SessionId, Session>,
    pub(super) groups: BTreeMap<u64, BTreeSet<SessionId>>,
    /// The time at which each timer is due, by its key.
    pub(super) timers: BTreeMap<u64, u64>,
    /// The messages on the bus.
    pub(super) published: Vec<(String, Vec<u8>)>,
    pub(super) metrics: BTreeMap<usize, f64>,
    /// The sessions that have ended without a call of `on_disconnect` so far, and why.
    pub(super) ended: VecDeque<(SessionId, &'static str)>,
    interests: Vec<(Holder, String)>,
    /// The time at which each entry with a time to live is removed.
    expiries: BTreeMap<String, u64>,
}

/// A session, which may have ended.
#[derive(Default)]
pub(super) struct Session {
    pub(super) user: Option<i64>,
    pub(super) tag: u64,
    pub(super) pushes: Vec<Push>,
    pub(super) has_ended: bool,
    pub(super) is_away: bool,
    /// The close code and the reason, if the plugin ended the session.
    pub(super) closing: Option<Closing>,
}

impl World {
    /// Makes a call at the time `now`.
    pub(super) fn call<R>(&mut self, now: u64, call: impl FnOnce() -> R) -> R {
        while let Some(key) = self.expiries.iter().find(|(_, at)| **at <= now).map(|(key, _)| key.clone()) {
            self.put(key, None, None);
        }
        reads::during(&mut self.reads, call)
    }

    /// Carries out the actions of a call.
    pub(super) fn apply(&mut self, call: Call<'_>, now: u64, actions: &[Action], metrics: &[Metric]) {
        for action in actions {
            match action.clone() {
                Action::Publish(it) => self.published.push((it.topic, body(it.body, call))),
                Action::Reply(_) | Action::Echo => {}
                Action::Bind(user) => self.change(call.sender, |session| session.user = Some(user)),
                Action::Deliver(it) => self.deliver(it, call),
                Action::Join(it) => self.join(it),
                Action::Leave(it) => self.leave(it),
                Action::Listen(it) => self.listen(it.holder, it.topic),
                Action::Unlisten(it) => self.interests.retain(|held| *held != (it.holder, it.topic.clone())),
                Action::SetTag(it) => self.change(Some(it.session), |session| session.tag = it.tag),
                Action::End(it) => {
                    for session in self.targets(&it.whom, call) {
                        self.change(Some(session), |session| session.closing = Some(it.closing.clone()));
                        self.end(session, "policy");
                    }
                }
                Action::Put(it) => self.put(it.key, it.value, it.ttl_ms.map(|ttl| now.saturating_add(ttl))),
                Action::Wake(it) => {
                    self.timers.remove(&it.key);
                    // A timer is due later than the call that sets it, even if it is set for 0 ms.
                    let due = it.after_ms.map(|after| (it.key, now.saturating_add(after.max(1))));
                    self.timers.extend(due);
                }
                Action::Measure(it) => self.measure(it, metrics),
            }
        }
    }

    /// Ends a session: it is no member of a group any more, and has no interests and no attributes any more.
    pub(super) fn end(&mut self, session: SessionId, cause: &'static str) {
        self.change(Some(session), |session| session.has_ended = true);
        self.ended.push_back((session, cause));
        let groups: Vec<_> = self.groups.keys().copied().collect();
        for group in groups {
            self.leave(Membership { session, group });
        }
        self.interests.retain(|(holder, _)| *holder != Holder::Session(session));
        self.reads.attributes.remove(&session);
    }

    /// Removes and returns the key of the timer that is due first, and the time, if it is due at `now`.
    pub(super) fn take_due(&mut self, now: u64) -> Option<(u64, u64)> {
        let (key, due) = self.timers.iter().map(|(key, due)| (*key, *due)).min_by_key(|(key, due)| (*due, *key))?;
        if due > now {
            return None;
        }
        self.timers.remove(&key);
        Some((key, due))
    }

    /// Returns whether a session or a group listens to the topic.
    pub(super) fn listens(&self, topic: &str) -> bool {
        self.interests.iter().any(|(_, held)| held == topic)
    }

    /// Writes or removes an entry, which lives until the time `until`.
    pub(super) fn put(&mut self, key: String, value: Option<Vec<u8>>, until: Option<u64>) {
        self.expiries.remove(&key);
        self.expiries.extend(until.map(|until| (key.clone(), until)));
        match value {
            Some(value) => self.reads.entries.insert(key, value),
            None => self.reads.entries.remove(&key),
        };
    }

    fn deliver(&mut self, delivery: Delivery, call: Call<'_>) {
        let push = Push { route: delivery.route, body: body(delivery.body, call), keep: delivery.keep };
        for session in self.targets(&delivery.to, call) {
            if delivery.except != Some(session) {
                self.change(Some(session), |session| session.pushes.push(push.clone()));
            }
        }
    }

    /// Returns the live sessions of a target.
    fn targets(&self, target: &Target, call: Call<'_>) -> Vec<SessionId> {
        let is_target = |id: &SessionId, session: &Session| match target {
            Target::Sender => Some(*id) == call.sender,
            Target::Session(session) => id == session,
            Target::User(user) => session.user == Some(*user),
            Target::Group(group) => self.groups.get(group).is_some_and(|members| members.contains(id)),
        };
        let live = self.sessions.iter().filter(|(_, session)| !session.has_ended);
        live.filter(|(id, session)| is_target(id, session)).map(|(id, _)| *id).collect()
    }

    /// Changes a live session. An ended one stays as it is.
    fn change(&mut self, session: Option<SessionId>, change: impl FnOnce(&mut Session)) {
        if let Some(session) = session.and_then(|session| self.sessions.get_mut(&session)).filter(|it| !it.has_ended) {
            change(session);
        }
    }

    fn join(&mut self, Membership { session, group }: Membership) {
        if self.sessions.get(&session).is_some_and(|session| !session.has_ended) {
            self.groups.entry(group).or_default().insert(session);
        }
    }

    fn leave(&mut self, Membership { session, group }: Membership) {
        let Some(members) = self.groups.get_mut(&group) else { return };
        members.remove(&session);
        if members.is_empty() {
            self.groups.remove(&group);
            self.interests.retain(|(holder, _)| *holder != Holder::Group(group));
        }
    }

    fn listen(&mut self, holder: Holder, topic: String) {
        let exists = match holder {
            Holder::Session(session) => self.sessions.get(&session).is_some_and(|session| !session.has_ended),
            Holder::Group(group) => self.groups.contains_key(&group),
        };
        if exists && !self.interests.contains(&(holder, topic.clone())) {
            self.interests.push((holder, topic));
        }
    }

    fn measure(&mut self, Measurement { metric, value }: Measurement, metrics: &[Metric]) {
        let position = usize::try_from(metric).unwrap_or(usize::MAX);
        let sum = self.metrics.entry(position).or_default();
        *sum = if metrics[position].kind == MetricKind::Gauge { value } else { *sum + value };
    }
}

/// Returns the body of an action, which is the payload of the call if the action has none.
fn body(body: Option<Vec<u8>>, call: Call<'_>) -> Vec<u8> {
    body.or_else(|| call.payload.map(<[u8]>::to_vec)).unwrap_or_default()
}
