//! Makes the calls of plugins and carries out their decisions, on the current thread or on the offload thread.

use super::{
    actions::Decided,
    calls::{Call, News, Occasion, OwnedCall, session_id},
    decision::{self, Attributes},
    gateway::Gateway,
    progress::{Progress, Rest},
    reach::Reach,
    refusal::Refusal,
    snapshot::Snapshot,
    traced::{self, Traced},
};
use crate::{
    plugin::{CallPermit, Called, Decision, Fault, Lease, Rules, Sender, Usage, offload::JobKind, trace},
    sync::moment::Moment,
    telemetry::text,
};
use std::sync::Arc;

/// How often a call is made again because another call has changed what it had read. After that it is made alone: no
/// other call of the plugin may change the state until it is done.
const MAX_CONFLICTS: usize = 3;

/// The thread on which a call is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thread {
    /// A thread that serves players.
    Worker,
    /// The offload thread of the plugin.
    Offload,
}

impl Gateway {
    /// Makes a call on the current thread, and carries out the plugin's decision, or leaves it to the offload thread.
    pub(super) fn serve(&self, call: &Call<'_>, snapshot: &Snapshot) -> Result<Progress, Refusal> {
        self.serve_on(Thread::Worker, call, snapshot)
    }

    fn serve_on(&self, thread: Thread, call: &Call<'_>, snapshot: &Snapshot) -> Result<Progress, Refusal> {
        match self.attempt(thread, call, snapshot, false) {
            Err(Refusal::Conflict) => self.serve_again(thread, call, snapshot),
            outcome => outcome,
        }
    }

    /// Makes a call again that had a conflict.
    #[cold]
    fn serve_again(&self, thread: Thread, call: &Call<'_>, snapshot: &Snapshot) -> Result<Progress, Refusal> {
        for _ in 1..MAX_CONFLICTS {
            match self.attempt(thread, call, snapshot, false) {
                Err(Refusal::Conflict) => {}
                outcome => return outcome,
            }
        }
        self.attempt(thread, call, snapshot, true)
    }

    fn attempt(&self, thread: Thread, call: &Call<'_>, snapshot: &Snapshot, alone: bool) -> Result<Progress, Refusal> {
        let Some(lease) = lease(thread, call) else { return Ok(Progress::Left(Rest::Call)) };
        let store = &call.served.account.kept.store;
        let alone = alone.then(|| store.long_transaction());
        let mut decided = self.decide_with(lease, call, snapshot)?;
        if thread == Thread::Worker && alone.is_none() && decided.is_long(store) {
            return Ok(Progress::Left(Rest::CarryOut(Box::new(decided))));
        }
        self.executor.carry_out(call, &mut decided, alone).map(Progress::Done)
    }

    fn decide_with(&self, mut lease: Lease<'_>, call: &Call<'_>, snapshot: &Snapshot) -> Result<Decided, Refusal> {
        let permit = call.served.plugin.admit().ok_or(Refusal::Quarantined)?;
        let began = Moment::now();
        let now = call.time(began);
        let mut attributes = None;
        if let Some(tracer) = self.traces.tracer() {
            traced::begin(tracer, call, &mut lease);
        }
        let traced = trace::begin(|| call.span());
        let called = ask(call, lease, &self.rules(call, snapshot), (began, now), &mut attributes);
        trace::end(traced, || trace::outcome(&called.answer));
        settle(call, &permit, &called, now).inspect_err(|refusal| {
            // After a conflict, the call is made again.
            if !matches!(refusal, Refusal::Conflict) {
                self.end_undecided(call, &called.usage, refusal);
            }
        })?;
        let actions = match called.answer {
            Ok(Ok(actions)) => actions,
            Ok(Err(rejection)) => {
                let refusal = Refusal::Rejected(rejection);
                self.end_undecided(call, &called.usage, &refusal);
                return Err(refusal);
            }
            Err(fault) => {
                self.log_fault(call, &fault);
                self.end_undecided(call, &called.usage, &Refusal::Fault);
                return Err(Refusal::Fault);
            }
        };
        let needs = self.executor.needs(call, &actions);
        Ok(Decided { actions, attributes, reads: called.usage.reads, needs, now, trace: called.usage.trace })
    }

    /// Ends the span of a call that led to no decision, if the call is recorded.
    fn end_undecided(&self, call: &Call<'_>, usage: &Usage, refusal: &Refusal) {
        if let Some(span) = &usage.trace {
            Traced::new(&self.traces, span).end(call, Some(refusal));
        }
    }

    /// Hands the rest of a call to the offload thread. `done` gets the call and its outcome there.
    pub(super) fn offload(
        self: &Arc<Self>,
        call: OwnedCall,
        snapshot: Arc<Snapshot>,
        rest: Rest,
        done: impl FnOnce(&Arc<Self>, &Call<'_>, Result<Reach, Refusal>) + Send + 'static,
    ) -> Result<(), Refusal> {
        let plugin = Arc::clone(&call.borrow().served.plugin);
        let kind = match call.borrow().occasion {
            Occasion::Message { is_entry: true, .. } => JobKind::Entry,
            Occasion::Message { .. } | Occasion::Wake { .. } => JobKind::Ordered,
            _ => JobKind::Other,
        };
        let bytes = call.borrow().payload_bytes();
        let gateway = Arc::clone(self);
        let job = Box::new(move || {
            let call = call.borrow();
            let serve = || match gateway.serve_on(Thread::Offload, &call, &snapshot)? {
                Progress::Done(reach) => Ok(reach),
                // The offload thread leaves nothing to itself.
                Progress::Left(_) => Ok(Reach::NotHere),
            };
            let outcome = match rest {
                Rest::CarryOut(mut decided) => {
                    let store = &call.served.account.kept.store;
                    let alone = decided.is_ordered().then(|| store.long_transaction());
                    match gateway.executor.carry_out(&call, &mut decided, alone) {
                        Err(Refusal::Conflict) => serve(),
                        outcome => outcome,
                    }
                }
                Rest::Call if gateway.views.begin(&call) => serve(),
                Rest::Call => Err(Refusal::Withdrawn),
            };
            done(&gateway, &call, outcome);
        });
        plugin.offload_thread().submit(kind, bytes, job).map_err(|_| Refusal::Busy)
    }

    fn log_fault(&self, call: &Call<'_>, fault: &Fault) {
        let plugin = &call.served.plugin;
        let generation = format!("{}, generation {}", plugin.name(), plugin.number());
        if self.metrics.log_limits.permit("plugin call failed", &generation) {
            let (name, version) = (&**plugin.name(), plugin.version());
            tracing::error!(plugin = name, version, "plugin call failed: {fault}");
        }
        // A failed packet counts against its session when the packet is refused.
        if let (Occasion::Message { .. }, Sender::Session(id)) = (call.occasion, call.sender())
            && let Some(session) = self.registry.session(id)
        {
            Self::blame(&session);
        }
    }

    /// Returns the rules for the answer of a call that is made under a snapshot.
    pub(super) fn rules<'a>(
        &self,
        call: &Call<'a>,
        snapshot: &'a Snapshot,
    ) -> Rules<'a, impl Fn(u8) -> bool + use<'a>> {
        let plugin = &call.served.plugin;
        Rules {
            about: call.occasion.about(),
            max_message_bytes: self.max_message_bytes,
            max_actions: plugin.settings().limits.actions,
            takes: plugin.takes(),
            metrics: plugin.metrics(),
            serves: |route| snapshot.route(route).is_some(),
        }
    }

    /// Counts and logs a call without a packet that was not served.
    pub(super) fn record_loss(&self, call: &Call<'_>, refusal: &Refusal) {
        refusal.count_loss(&self.metrics);
        let plugin = &**call.served.plugin.name();
        let (_, why) = refusal.answer();
        match call.occasion {
            Occasion::Message { topic, payload, .. } => {
                if self.metrics.log_limits.permit("bus message refused", plugin) {
                    let (topic, why) = (text::bounded(topic), text::bounded(why));
                    tracing::warn!(topic, bytes = payload.len(), plugin, why, "bus message refused");
                }
            }
            Occasion::Wake { key } => {
                if self.metrics.log_limits.permit("timer refused", plugin) {
                    tracing::warn!(plugin, key, why = text::bounded(why), "timer refused: it is tried again");
                }
            }
            Occasion::Presence { session, .. } => {
                if self.metrics.log_limits.permit("presence refused", plugin) {
                    let (session, why) = (session.id, text::bounded(why));
                    tracing::warn!(plugin, %session, why, "that a client is away or back was not handled");
                }
            }
            _ => {
                if self.metrics.log_limits.permit("end of session refused", plugin) {
                    tracing::warn!(plugin, why = text::bounded(why), "the end of a session was not handled");
                }
            }
        }
    }
}

/// Makes a call and checks the answer. `began` is the moment from which the call is measured, and `now` the time that the
/// plugin sees. The attributes for a session that may begin are put into `attributes`.
pub(super) fn ask(
    call: &Call<'_>,
    lease: Lease<'_>,
    rules: &Rules<'_, impl Fn(u8) -> bool>,
    (began, now): (Moment, u64),
    attributes: &mut Option<Attributes>,
) -> Called<Decision> {
    let mut called = match call.occasion {
        Occasion::Packet { session, header, payload } => {
            lease.on_packet(began, call.packet(session, header, now), payload)
        }
        Occasion::Message { topic, payload, .. } => lease.on_message(began, topic, payload, now),
        Occasion::Connect { session, connection } => {
            let Called { answer, usage } = lease.on_connect(began, connection);
            let checked = answer.and_then(|answer| match rules.check_connect(&answer) {
                Ok(()) => Ok(decision::on_connect(session_id(session.id), answer, attributes)),
                Err(broken) => Err(Fault::Answer(broken)),
            });
            return Called { answer: checked, usage };
        }
        Occasion::Disconnect { departure, .. } => lease.on_disconnect(began, departure),
        Occasion::Presence { news: News::Away(absence), .. } => lease.on_away(began, *absence),
        Occasion::Presence { news: News::Back(arrival), .. } => lease.on_back(began, *arrival),
        Occasion::Wake { key } => lease.on_wake(began, key, now),
    };
    if let Ok(decision) = &called.answer
        && let Err(broken) = rules.check(decision)
    {
        called.answer = Err(Fault::Answer(broken));
    }
    called
}

/// Records what the outcome of a call says about the plugin and about the sender.
///
/// # Errors
/// Returns [`Refusal::Conflict`] if the call has failed and what it had read has changed, or [`Refusal::Replaced`] if it
/// has not succeeded and has read the state of a version with another format.
fn settle(call: &Call<'_>, permit: &CallPermit, called: &Called<Decision>, now: u64) -> Result<(), Refusal> {
    let (plugin, Called { answer, usage }) = (&call.served.plugin, called);
    if usage.is_slow || answer.is_err() {
        match call.occasion {
            Occasion::Packet { session, .. } if usage.is_slow => session.conduct.record_slow(),
            // These are counted against the session elsewhere, or have no sender.
            Occasion::Packet { .. } | Occasion::Message { .. } => {}
            _ => plugin.offload_hooks(),
        }
    }
    let store = &plugin.kept().store;
    let has_succeeded = matches!(answer, Ok(Ok(_)));
    if !has_succeeded && !usage.reads.is_empty() && store.is_replaced(&usage.reads) {
        plugin.refill();
        return Err(Refusal::Replaced);
    }
    if answer.is_err() && !store.is_current(&usage.reads, now) {
        // Two reads of the call may not fit together. So the failure says nothing about the plugin.
        plugin.refill();
        return Err(Refusal::Conflict);
    }
    plugin.settle(|| call.sender(), permit, usage, answer.as_ref());
    Ok(())
}

/// Leases an instance for a call. Returns `None` if the call has to be made on the offload thread.
fn lease<'a>(thread: Thread, call: &Call<'a>) -> Option<Lease<'a>> {
    let plugin = &call.served.plugin;
    match (thread, call.occasion) {
        (Thread::Offload, _) => Some(plugin.lease_offloaded()),
        (Thread::Worker, Occasion::Packet { session, .. }) if session.conduct.is_offloaded() => None,
        (Thread::Worker, Occasion::Packet { .. }) => plugin.lease(),
        (Thread::Worker, Occasion::Message { .. }) => plugin.lease_in_order(),
        (Thread::Worker, Occasion::Wake { .. }) => plugin.lease_for_timer(),
        (Thread::Worker, Occasion::Connect { .. } | Occasion::Disconnect { .. } | Occasion::Presence { .. }) => {
            plugin.lease_for_session()
        }
    }
}
