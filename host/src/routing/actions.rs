//! Carries out the actions of a decision.
//!
//! First, capacity of the bus is reserved and the call's writes to the plugin's state are committed. If either fails, no
//! action is carried out. Then all other actions are carried out in the order of the list. Finally, the publishes are
//! committed in one step. So the bus sees a call's publishes after the call's other actions. Otherwise the answer to a
//! publish could arrive before the session is bound, or overtake a delivery of the same call.

use super::{
    bounds,
    calls::{Call, Occasion},
    decision::Attributes,
    effects::Effects,
    loops::Causes,
    origin::Origin,
    reach::Reach,
    refusal::Refusal,
    snapshot::ServingPlugin,
    traced::Traced,
};
use crate::{
    bus::{Full, Load, Permit, Queue},
    delivery::registry::Registry,
    plugin::{
        Action, Plugin, Publication, Target,
        store::{Abort, Put, Reads, Store, Transaction},
    },
    telemetry::{metrics::Metrics, text},
    traces::{OpenSpan, Traces},
};
use bytes::Bytes;
use std::{borrow::Cow, sync::Arc};

/// The maximum number of messages that one call may put into send queues on a thread that serves players. The offload
/// thread carries out larger calls.
const MAX_INLINE_PUSHES: usize = 2048;

/// Carries out actions on the sessions and the bus.
pub(super) struct Executor {
    pub(super) registry: Arc<Registry>,
    pub(super) bus: Arc<Queue<Origin>>,
    pub(super) causes: Causes,
    pub(super) traces: Arc<Traces>,
    pub(super) metrics: Arc<Metrics>,
}

/// A decision that is ready to be carried out.
pub(super) struct Decided {
    pub(super) actions: Vec<Action>,
    /// The attributes for a session that may begin.
    pub(super) attributes: Option<Attributes>,
    /// What the call has read of the plugin's state.
    pub(super) reads: Reads,
    /// What the actions need.
    pub(super) needs: Needs,
    /// The time of the call, in milliseconds since 1970.
    pub(super) now: u64,
    /// The span of the call, if it is recorded.
    pub(super) trace: Option<Box<OpenSpan>>,
}

impl Decided {
    /// Returns whether no thread that serves players should carry out the decision: it reaches many sessions, or it would
    /// wait for a call of the plugin that takes long.
    pub(super) fn is_long(&self, store: &Store) -> bool {
        self.needs.pushes > MAX_INLINE_PUSHES || (self.is_ordered() && store.is_held_long())
    }

    /// Returns whether the decision is carried out in the order of the plugin's commits.
    pub(super) fn is_ordered(&self) -> bool {
        self.needs.writes || self.needs.keeps || !self.reads.is_empty()
    }
}

/// What a list of actions needs, so that the usual decision pays only for what it uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// The number of publishes.
    publishes: usize,
    /// The number of deliveries and endings.
    deliveries: usize,
    /// The number of sessions that the deliveries and endings reach. It is counted only for groups, and if there are
    /// two deliveries or more.
    pushes: usize,
    binds: bool,
    /// Whether an action keeps something in the host that has a bound.
    keeps: bool,
    writes: bool,
}

impl Executor {
    /// Returns what the actions need.
    pub(super) fn needs(&self, call: &Call<'_>, actions: &[Action]) -> Needs {
        let mut needs = Needs::default();
        let mut reaches_group = false;
        for action in actions {
            match action {
                Action::Publish(_) => needs.publishes += 1,
                Action::Bind(_) => needs.binds = true,
                Action::Put(_) => needs.writes = true,
                Action::Join(_) | Action::Listen(_) | Action::Wake(_) => needs.keeps = true,
                _ => {}
            }
            if let Some(target) = target(action) {
                needs.deliveries += 1;
                reaches_group |= matches!(target, Target::Group(_));
            }
        }
        needs.pushes = if needs.deliveries > 1 || reaches_group {
            let owner = &call.served.account.owner;
            let reached = actions.iter().filter_map(target).map(|target| match target {
                Target::User(user) => self.registry.sessions_of_user(*user),
                Target::Group(group) => self.registry.members(owner, *group),
                Target::Session(_) | Target::Sender => 1,
            });
            reached.sum()
        } else {
            needs.deliveries
        };
        needs
    }

    /// Carries out the actions of a decision, all or none, and returns what they led to. If the caller holds the lock on
    /// the plugin's transactions, it is passed in `alone`.
    pub(super) fn carry_out(
        &self,
        call: &Call<'_>,
        decided: &mut Decided,
        alone: Option<Transaction<'_>>,
    ) -> Result<Reach, Refusal> {
        match decided.trace.take() {
            None => self.carry_out_all(call, decided, alone, None),
            Some(span) => self.carry_out_traced(call, decided, &span, alone),
        }
    }

    /// Does the same for a call that is recorded.
    #[cold]
    fn carry_out_traced(
        &self,
        call: &Call<'_>,
        decided: &mut Decided,
        span: &OpenSpan,
        alone: Option<Transaction<'_>>,
    ) -> Result<Reach, Refusal> {
        let traced = Traced::new(&self.traces, span);
        let outcome = self.carry_out_all(call, decided, alone, Some(&traced));
        // After a conflict, the call is made again.
        if !matches!(outcome, Err(Refusal::Conflict)) {
            traced.end(call, outcome.as_ref().err());
        }
        outcome
    }

    fn carry_out_all(
        &self,
        call: &Call<'_>,
        decided: &mut Decided,
        alone: Option<Transaction<'_>>,
        traced: Option<&Traced<'_>>,
    ) -> Result<Reach, Refusal> {
        let is_ordered = decided.is_ordered();
        let (served, needs, actions) = (call.served, &decided.needs, &mut decided.actions);
        if needs.binds {
            self.check_bindings(call, actions)?;
        }
        if needs.deliveries > 1 {
            self.check_pushes(&served.plugin, needs.pushes)?;
        }
        if needs.keeps {
            bounds::check(&self.registry, &served.account, actions)?;
        }
        let permit = if needs.publishes > 0 { Some(self.reserve(call, actions, needs.publishes)?) } else { None };
        // The lock is held until all other actions are carried out. So if one call reads what another has written, the
        // other's actions come first.
        let _transaction = if is_ordered {
            let transaction = alone.unwrap_or_else(|| served.account.kept.store.transaction());
            commit_state(served, &decided.reads, actions, decided.now)?;
            Some(transaction)
        } else {
            alone
        };
        if let Some(attributes) = decided.attributes.take()
            && let Some(session) = call.session()
        {
            session.set_attributes(&served.account.owner, *attributes);
        }
        let effects = Effects { registry: &self.registry, metrics: &self.metrics, call, traced };
        let mut reach = Reach::NotHere;
        for action in &mut *actions {
            reach = reach.or(effects.carry_out(action));
        }
        if let Some(permit) = permit {
            self.publish(permit, call, actions, traced);
        }
        Ok(reach)
    }

    /// Checks that the actions bind the session to no second user, and that the user may have the session. The first user
    /// is the one that the session has already, or else the first one in the actions.
    fn check_bindings(&self, call: &Call<'_>, actions: &[Action]) -> Result<(), Refusal> {
        let Some(session) = call.session() else { return Ok(()) };
        let bound = session.user();
        let mut user = bound;
        let mut fits = |action: &Action| match action {
            Action::Bind(wanted) => *user.get_or_insert(*wanted) == *wanted,
            _ => true,
        };
        if !actions.iter().all(&mut fits) {
            return Err(Refusal::BoundToAnother);
        }
        let Some(user) = user.filter(|_| bound.is_none()) else { return Ok(()) };
        // A plugin's `on-connect` may know the user without a token.
        if session.is_anonymous() && call.header().is_some() {
            return Err(Refusal::Anonymous);
        }
        if self.registry.may_have_another(user) { Ok(()) } else { Err(Refusal::TooManySessions) }
    }

    /// Reserves capacity of the bus for the publishes.
    fn reserve<'a>(
        &'a self,
        call: &Call<'a>,
        actions: &[Action],
        publishes: usize,
    ) -> Result<Permit<'a, Origin>, Refusal> {
        let served = call.served;
        let publications = || actions.iter().filter_map(publication);
        if let Occasion::Message { topic, .. } = call.occasion {
            for publication in publications() {
                if self.causes.closes_cycle(topic, &publication.topic) && !served.account.loops.permit() {
                    self.publishes_refused(&served.plugin, &publication.topic, "publish_loop", publishes);
                    return Err(Refusal::Loop(text::bounded(&publication.topic)));
                }
            }
        }
        let payload = call.payload_bytes();
        let size = |Publication { topic, body }: &Publication| topic.len() + body.as_ref().map_or(payload, Vec::len);
        let wanted = Load { publishes, bytes: publications().map(size).sum() };
        self.bus.reserve(&served.account.share, wanted).map_err(|full| match full {
            Full::Queue => Refusal::BusFull,
            Full::Share => {
                let topic = publications().next().map_or("", |publication| &publication.topic);
                self.publishes_refused(&served.plugin, topic, "bus_share", publishes);
                Refusal::BusShare
            }
        })
    }

    fn publish(
        &self,
        permit: Permit<'_, Origin>,
        call: &Call<'_>,
        actions: &mut [Action],
        traced: Option<&Traced<'_>>,
    ) {
        // While the bus is not connected, a payload may wait for a long time. It is copied, because a slice would keep
        // its whole read buffer alive.
        let copy;
        let payload = match call.payload() {
            Some(payload) if self.bus.is_disconnected() => {
                copy = Bytes::copy_from_slice(payload);
                &copy
            }
            Some(payload) => payload,
            None => &Bytes::new(),
        };
        let origin = call.origin();
        let after = call.session().map_or(0, |session| session.listens_since());
        permit.commit_traced(
            after,
            actions.iter_mut().filter_map(publication_mut).map(|Publication { topic, body }| {
                let body = body.take().map_or(Cow::Borrowed(payload), |body| Cow::Owned(body.into()));
                (topic.as_str(), body, origin, traced.and_then(Traced::publish))
            }),
        );
    }

    fn publishes_refused(&self, plugin: &Plugin, topic: &str, reason: &'static str, publishes: usize) {
        plugin.publishes_refused(reason, publishes);
        if self.metrics.log_limits.permit("publishes refused", plugin.name()) {
            let (plugin, topic) = (&**plugin.name(), text::bounded(topic));
            tracing::warn!(plugin, topic, reason, publishes, "publishes of the plugin refused");
        }
    }

    fn check_pushes(&self, plugin: &Plugin, pushes: usize) -> Result<(), Refusal> {
        let max = plugin.settings().limits.pushes;
        if pushes <= max {
            return Ok(());
        }
        if self.metrics.log_limits.permit("too many pushes", plugin.name()) {
            let plugin = &**plugin.name();
            tracing::warn!(plugin, pushes, max, "a call's deliveries would reach more sessions than `pushes` allows");
        }
        Err(Refusal::TooManyPushes { pushes, max })
    }
}

/// Checks the call's reads and commits its writes.
fn commit_state(served: &ServingPlugin, reads: &Reads, actions: &mut [Action], now: u64) -> Result<(), Refusal> {
    let puts = actions.iter_mut().filter_map(|action| match action {
        Action::Put(entry) => {
            let (key, value) = (std::mem::take(&mut entry.key), entry.value.take());
            Some(Put { key, value, ttl_ms: entry.ttl_ms })
        }
        _ => None,
    });
    served.account.kept.store.commit(reads, puts, now).map_err(|abort| match abort {
        Abort::Conflict => Refusal::Conflict,
        Abort::Full { bytes, max } => Refusal::StateFull { bytes, max },
        Abort::Replaced => Refusal::Replaced,
    })
}

/// Returns the sessions that the action sends something to.
fn target(action: &Action) -> Option<&Target> {
    match action {
        Action::Deliver(delivery) => Some(&delivery.to),
        Action::End(ending) => Some(&ending.whom),
        _ => None,
    }
}

fn publication(action: &Action) -> Option<&Publication> {
    if let Action::Publish(publication) = action { Some(publication) } else { None }
}

fn publication_mut(action: &mut Action) -> Option<&mut Publication> {
    if let Action::Publish(publication) = action { Some(publication) } else { None }
}
