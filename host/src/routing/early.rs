//! Decisions on messages that are made before the messages' turn.
//!
//! An early decision is used only if the plugin has decided on actions, and if what it has read of the state is still the
//! same at the turn of its message. Any other early call leaves no trace: it counts nowhere, against nobody, and logs
//! nothing. The message is then served at its turn, as if there had been no such call.

use super::{
    actions::Decided,
    calls::Call,
    gateway::Gateway,
    progress::{Progress, Rest},
    refusal::Refusal,
    serving::ask,
    snapshot::{ServingPlugin, Snapshot},
    traced,
};
use crate::{
    plugin::{Action, Called, Decision, Delivery, Publication, Usage},
    sync::moment::Moment,
};
use std::sync::Arc;

/// A decision on a message that was made before the message's turn.
pub(super) struct Early {
    served: Arc<ServingPlugin>,
    actions: Vec<Action>,
    /// What the call used.
    usage: Usage,
    /// The time of the call, in milliseconds since 1970.
    now: u64,
}

impl Early {
    /// Returns whether the decision is that of this plugin.
    pub(super) fn is_of(&self, served: &Arc<ServingPlugin>) -> bool {
        Arc::ptr_eq(&self.served, served)
    }

    /// Returns the size of the messages in the decision, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let bytes = |action: &Action| match action {
            Action::Publish(Publication { body: Some(body), .. })
            | Action::Deliver(Delivery { body: Some(body), .. }) => body.len(),
            Action::Put(entry) => entry.value.as_ref().map_or(0, Vec::len),
            _ => 0,
        };
        self.actions.iter().map(bytes).sum()
    }
}

impl Gateway {
    /// Calls a plugin for a message before the message's turn. Returns `None` if the plugin has to be called again then.
    pub(super) fn decide_early(&self, call: &Call<'_>, snapshot: &Snapshot) -> Option<Early> {
        let (plugin, pause) = (&call.served.plugin, &call.served.account.pause);
        // A quarantine admits single calls, and each of them has to count.
        if !pause.is_over() || plugin.is_quarantined() {
            return None;
        }
        let mut lease = plugin.lease_in_order()?.muted();
        if let Some(tracer) = self.traces.tracer() {
            traced::begin(tracer, call, &mut lease);
        }
        let began = Moment::now();
        let now = call.time(began);
        let Called { answer, usage } = ask(call, lease, &self.rules(call, snapshot), (began, now), &mut None);
        if answer.is_err() {
            // The instance is gone, and the others are needed for the calls that count.
            plugin.refill();
        }
        let actions = answer.ok().and_then(Result::ok).filter(|_| !usage.wanted_to_log);
        if actions.is_none() || usage.is_slow {
            // If calls are in vain or slow, they are made one by one, so that each one counts before the next.
            pause.begin();
        }
        Some(Early { served: Arc::clone(call.served), actions: actions?, usage, now })
    }

    /// Carries out an early decision at the turn of its message. Returns `None` if the plugin has to be called again.
    pub(super) fn serve_early(&self, call: &Call<'_>, early: Early) -> Option<Result<Progress, Refusal>> {
        let Early { actions, usage, now, .. } = early;
        let plugin = &call.served.plugin;
        // An earlier message on the offload thread may not be overtaken, and may still change what was read.
        if plugin.offload_thread().has_messages() {
            return None;
        }
        let is_current = plugin.kept().store.is_current(&usage.reads, now);
        let progress = is_current.then(|| self.carry_out_early(call, Ok(actions), usage, now)).flatten();
        if progress.is_none() {
            call.served.account.pause.begin();
        }
        progress
    }

    /// Carries out a decision that was made before its turn. Returns `None` if the plugin has to be called again.
    pub(super) fn carry_out_early(
        &self,
        call: &Call<'_>,
        decision: Decision,
        mut usage: Usage,
        now: u64,
    ) -> Option<Result<Progress, Refusal>> {
        let plugin = &call.served.plugin;
        if plugin.is_quarantined() {
            return None;
        }
        let permit = plugin.admit()?;
        let actions = match decision {
            Ok(actions) => actions,
            Err(rejection) => {
                plugin.settle(|| call.sender(), &permit, &usage, Ok(&Err::<(), _>(rejection.clone())));
                return Some(Err(Refusal::Rejected(rejection)));
            }
        };
        // Earlier messages may have changed whom the actions reach.
        let needs = self.executor.needs(call, &actions);
        let (reads, trace) = (usage.reads.take(), usage.trace.take());
        let mut decided = Decided { actions, attributes: None, reads, needs, now, trace };
        let outcome = if decided.is_long(&plugin.kept().store) {
            Ok(Progress::Left(Rest::CarryOut(Box::new(decided))))
        } else {
            self.executor.carry_out(call, &mut decided, None).map(Progress::Done)
        };
        if matches!(outcome, Err(Refusal::Conflict)) {
            return None;
        }
        plugin.settle(|| call.sender(), &permit, &usage, Ok(&Ok(())));
        Some(outcome)
    }
}
