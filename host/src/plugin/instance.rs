//! One instance of a plugin: a store of its own, thrown away after its first fault.

use super::{
    bindings::{Action, Manifest, Packet, Plugin as Exports, Rejection},
    clock::Clock,
    component::Linked,
    state::{Refused, State},
};
use crate::telemetry::{metrics::PluginMetrics, text};
use prometheus_client::metrics::gauge::Gauge;
use std::{fmt, sync::Arc, time::Duration};
use wasmtime::{Store, Trap, UpdateDeadline, WasmBacktrace};

/// What a plugin answers.
pub type Decision = Result<Vec<Action>, Rejection>;

/// Bounds of what one call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The processor time that a call may take.
    pub call_timeout: Duration,
    /// The linear memory an instance may have, in bytes.
    pub memory: usize,
    /// The elements that its tables may have together. Those of the largest guests seen, interpreters, are a tenth of the default.
    pub table_elements: usize,
    /// The handles to resources of the host or of its own that it may hold.
    pub handles: usize,
    /// What the bytes of one call's result may come to on the host's side.
    pub result: usize,
    /// The actions that one call may answer with.
    pub actions: usize,
    /// The messages that the deliveries of one call may put into send queues.
    pub pushes: usize,
    /// The bytes of a log line that are kept.
    pub log_line: usize,
    /// The log lines that an instance may write in a second.
    pub log_lines_per_s: u32,
}

/// The processor time that each step of loading may take: instantiation, `describe` and `configure`.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// To read a payload of protobuf fields of 2 bytes takes the shipped policies 4.3 ms for each MiB. This is twice that.
const TIME_PER_COPIED_KIB: Duration = Duration::from_micros(9);

/// The bytes of a function's name that are logged with a fault.
const MAX_FUNCTION_NAME_BYTES: usize = 200;

/// A call that did not end with an answer. The instance is lost.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It ran past its deadline.
    #[error("it ran for more than {} ms (`call_timeout_ms`)", .0.as_millis())]
    Deadline(Duration),
    /// It ran past the deadline of loading.
    #[error("it ran for more than {} s, which no step of loading may take", LOAD_TIMEOUT.as_secs())]
    Loading,
    /// It wanted more memory than it may have, and did not survive the refusal.
    #[error("it wanted more than {} MiB of memory (`memory_mb`): {reason}", .limit >> 20)]
    Memory {
        /// The limit in bytes.
        limit: usize,
        /// What it then did.
        reason: String,
    },
    /// It wanted larger tables than it may have, and did not survive the refusal.
    #[error("it wanted tables of more than {limit} elements (`table_elements`): {reason}")]
    Tables {
        /// The limit in elements.
        limit: usize,
        /// What it then did.
        reason: String,
    },
    /// It wanted more handles than it may hold, which no guest survives.
    #[error("it wanted more than {0} handles (`handles`)")]
    Handles(usize),
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
            Self::Deadline(_) | Self::Loading => "deadline",
            Self::Memory { .. } | Self::Tables { .. } | Self::Handles(_) => "memory",
            Self::Trap(_) => "trap",
            Self::Answer(_) => "invalid",
        }
    }
}

/// The call of an export.
trait Call<R>: FnOnce(&Exports, &mut Store<State>) -> wasmtime::Result<R> {}

impl<R, F: FnOnce(&Exports, &mut Store<State>) -> wasmtime::Result<R>> Call<R> for F {}

/// A live instance.
pub(super) struct Instance {
    store: Store<State>,
    exports: Exports,
    limits: Limits,
    clock: Arc<Clock>,
    gauge: Gauge,
}

impl Instance {
    /// A fresh instance, not configured.
    pub(super) fn new(
        linked: &Linked,
        name: Arc<str>,
        limits: Limits,
        metrics: Option<&PluginMetrics>,
    ) -> Result<Self, Fault> {
        let (gauge, memory) = metrics.map_or_else(Default::default, |m| (m.instances.clone(), m.memory.clone()));
        let mut store = linked.store(State::new(name, limits, memory));
        store.limiter(|state| state);
        let clock = Arc::clone(linked.clock());
        store.epoch_deadline_callback(move |mut store| {
            // A call that is still running keeps the clock going.
            clock.call_begins();
            if store.data_mut().deadline().is_over() {
                Err(Trap::Interrupt.into())
            } else {
                Ok(UpdateDeadline::Continue(1))
            }
        });
        store.set_hostcall_fuel(limits.result);
        store.set_max_component_handles(limits.handles);
        begin(&mut store, linked.clock(), LOAD_TIMEOUT);
        match linked.instantiate(&mut store) {
            Ok(exports) => {
                gauge.inc();
                Ok(Self { store, exports, limits, clock: Arc::clone(linked.clock()), gauge })
            }
            Err(error) => Err(fault(&error, &store, limits, Fault::Loading)),
        }
    }

    pub(super) fn describe(&mut self) -> Result<Manifest, Fault> {
        self.load(|exports, store| exports.gateway_policy_policy().call_describe(store))
    }

    pub(super) fn configure(&mut self, settings: &str) -> Result<Result<Vec<String>, String>, Fault> {
        self.load(|exports, store| exports.gateway_policy_policy().call_configure(store, settings))
    }

    /// The processor time that a call may take for the bytes that the host copied into the plugin, beyond the time that any call may take.
    pub(super) fn allowance(copied: usize) -> Duration {
        TIME_PER_COPIED_KIB * u32::try_from(copied >> 10).unwrap_or(u32::MAX)
    }

    pub(super) fn on_packet(&mut self, packet: Packet, payload: &[u8]) -> Result<Decision, Fault> {
        self.call(payload.len(), |exports, store| {
            exports.gateway_policy_policy().call_on_packet(store, packet, payload)
        })
    }

    pub(super) fn on_message(&mut self, topic: &str, payload: &[u8]) -> Result<Decision, Fault> {
        self.call(payload.len(), |exports, store| {
            exports.gateway_policy_policy().call_on_message(store, topic, payload)
        })
    }

    /// How long the last call kept its thread busy, up to a tick.
    pub(super) fn busy(&mut self) -> Duration {
        self.store.data_mut().deadline().busy()
    }

    fn load<R>(&mut self, call: impl Call<R>) -> Result<R, Fault> {
        begin(&mut self.store, &self.clock, LOAD_TIMEOUT);
        call(&self.exports, &mut self.store).map_err(|error| fault(&error, &self.store, self.limits, Fault::Loading))
    }

    fn call<R>(&mut self, copied: usize, call: impl Call<R>) -> Result<R, Fault> {
        let timeout = self.limits.call_timeout + Self::allowance(copied);
        begin(&mut self.store, &self.clock, timeout);
        let too_late = Fault::Deadline(timeout);
        call(&self.exports, &mut self.store).map_err(|error| fault(&error, &self.store, self.limits, too_late))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

fn begin(store: &mut Store<State>, clock: &Clock, timeout: Duration) {
    store.data_mut().deadline().set(timeout);
    store.set_epoch_deadline(1);
    // After the deadline is set, which the next tick then reaches.
    clock.call_begins();
}

fn fault(error: &wasmtime::Error, store: &Store<State>, limits: Limits, too_late: Fault) -> Fault {
    let cause = text::bounded(error.root_cause());
    match (error.downcast_ref::<Trap>(), store.data().refused()) {
        (Some(Trap::Interrupt), _) => too_late,
        (_, Some(Refused::Memory)) => Fault::Memory { limit: limits.memory, reason: cause },
        (_, Some(Refused::Tables)) => Fault::Tables { limit: limits.table_elements, reason: cause },
        // The library has no types for these errors.
        _ if cause.contains("fuel allocated for hostcalls") => {
            Fault::Answer(format!("its result is over {} MiB (`result_mb`)", limits.result >> 20))
        }
        _ if cause.contains("store handle limit exceeded") => Fault::Handles(limits.handles),
        _ => Fault::Trap(text::bounded(format_args!("{cause}{}", Frames(error)))),
    }
}

/// The guest's functions that a fault passed through, innermost first.
///
/// Not the library's own text: it demangles names, and a C++ name of 1 KB can stand for one of gigabytes. Rust's names are demangled here, since those
/// of the older scheme cannot grow, and those of the newer one stop at the bound of the writer.
struct Frames<'a>(&'a wasmtime::Error);

impl fmt::Display for Frames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(backtrace) = self.0.downcast_ref::<WasmBacktrace>() else { return Ok(()) };
        let mut separator = " in ";
        for name in backtrace.frames().iter().filter_map(|frame| frame.func_name()) {
            let name = if name.len() <= MAX_FUNCTION_NAME_BYTES {
                text::bounded_to(MAX_FUNCTION_NAME_BYTES, format_args!("{:#}", rustc_demangle::demangle(name)))
            } else {
                text::bounded_to(MAX_FUNCTION_NAME_BYTES, name)
            };
            write!(f, "{separator}{name}")?;
            separator = " < ";
        }
        Ok(())
    }
}
