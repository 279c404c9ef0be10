//! One instance of a plugin: a store of its own, thrown away after its first fault.

use super::{
    bindings::{Action, Manifest, Packet, Plugin as Exports, Rejection},
    clock::{Clock, TICK},
    component::Linked,
    state::State,
};
use std::{sync::Arc, time::Duration};
use wasmtime::{Store, Trap};

/// What a plugin answers.
pub type Decision = Result<Vec<Action>, Rejection>;

/// Bounds of what one call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a call may run.
    pub call_timeout: Duration,
    /// The linear memory an instance may have, in bytes.
    pub memory: usize,
}

/// What the bytes of one call's result may come to, lists and strings of the guest together.
const RESULT_BYTES: usize = 64 * 1024 * 1024;

/// How long the calls of loading may run: instantiation, `describe` and `configure`.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// A call that did not end with an answer. The instance is lost.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It ran past its deadline.
    #[error("it ran for more than {} ms (`call_timeout_ms`)", .0.as_millis())]
    Deadline(Duration),
    /// It wanted more memory than it may have, and did not survive the refusal.
    #[error("it wanted more than {} MiB of memory (`memory_mb`): {reason}", .limit >> 20)]
    Memory {
        /// The limit in bytes.
        limit: usize,
        /// What it then did.
        reason: String,
    },
    /// It trapped.
    #[error("{0}")]
    Trap(String),
    /// It answered with something that no plugin may answer with.
    #[error("{0}")]
    Answer(String),
}

impl Fault {
    /// The label of `gateway_plugin_calls_total`.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "deadline",
            Self::Memory { .. } => "memory",
            Self::Trap(_) => "trap",
            Self::Answer(_) => "invalid",
        }
    }
}

/// A live instance.
pub(super) struct Instance {
    store: Store<State>,
    exports: Exports,
    limits: Limits,
    clock: Arc<Clock>,
}

impl Instance {
    /// A fresh instance, not configured.
    pub(super) fn new(linked: &Linked, name: Arc<str>, limits: Limits) -> Result<Self, Fault> {
        match linked.instantiate(name, limits.memory, ticks(LOAD_TIMEOUT)) {
            Ok((mut store, exports)) => {
                store.set_hostcall_fuel(RESULT_BYTES);
                Ok(Self { store, exports, limits, clock: Arc::clone(linked.clock()) })
            }
            Err((error, memory_refused)) => Err(fault(&error, memory_refused, limits, LOAD_TIMEOUT)),
        }
    }

    pub(super) fn describe(&mut self) -> Result<Manifest, Fault> {
        self.call(LOAD_TIMEOUT, |exports, store| exports.gateway_policy_policy().call_describe(store))
    }

    pub(super) fn configure(&mut self, settings: &str) -> Result<Result<Vec<String>, String>, Fault> {
        self.call(LOAD_TIMEOUT, |exports, store| exports.gateway_policy_policy().call_configure(store, settings))
    }

    pub(super) fn on_packet(&mut self, packet: Packet, payload: &[u8]) -> Result<Decision, Fault> {
        let timeout = self.limits.call_timeout;
        self.call(timeout, |exports, store| exports.gateway_policy_policy().call_on_packet(store, packet, payload))
    }

    pub(super) fn on_message(&mut self, topic: &str, payload: &[u8]) -> Result<Decision, Fault> {
        let timeout = self.limits.call_timeout;
        self.call(timeout, |exports, store| exports.gateway_policy_policy().call_on_message(store, topic, payload))
    }

    fn call<R>(
        &mut self,
        timeout: Duration,
        call: impl FnOnce(&Exports, &mut Store<State>) -> wasmtime::Result<R>,
    ) -> Result<R, Fault> {
        self.clock.call_begins();
        self.store.set_epoch_deadline(ticks(timeout));
        call(&self.exports, &mut self.store).map_err(|error| {
            self.store.data_mut().flush_stdio();
            fault(&error, self.store.data().memory_refused(), self.limits, timeout)
        })
    }
}

/// A deadline in ticks; one more, since the first may come at once.
fn ticks(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_nanos() / TICK.as_nanos()).unwrap_or(u64::MAX - 1).saturating_add(1)
}

fn fault(error: &wasmtime::Error, memory_refused: bool, limits: Limits, timeout: Duration) -> Fault {
    // With `:#` the chain of causes; the backtrace of the guest's functions comes first in it.
    let reason = format!("{error:#}").replace('\n', " ");
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => Fault::Deadline(timeout),
        _ if memory_refused => Fault::Memory { limit: limits.memory, reason },
        _ => Fault::Trap(reason),
    }
}
