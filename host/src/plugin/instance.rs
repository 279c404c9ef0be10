//! One instance of a plugin. Each instance has its own store, and is discarded after its first fault.

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

/// The answer of a plugin: actions, or a rejection.
pub type Decision = Result<Vec<Action>, Rejection>;

/// The limits of an instance and of its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The maximum processor time of a call. A call with a large payload gets more time.
    pub call_timeout: Duration,
    /// The maximum linear memory of an instance, in bytes.
    pub memory: usize,
    /// The maximum number of elements in all tables of an instance together. The largest known guests are interpreters,
    /// and they use a tenth of the default.
    pub table_elements: usize,
    /// The maximum number of resource handles that an instance may hold. The resources may be the host's or its own.
    pub handles: usize,
    /// The maximum size of the result of one call in the host's memory, in bytes.
    pub result: usize,
    /// The maximum number of actions in the answer of one call.
    pub actions: usize,
    /// The maximum number of messages that the deliveries of one call may put into send queues.
    pub pushes: usize,
    /// The maximum length of a log line, in bytes. Longer lines are cut.
    pub log_line: usize,
    /// The maximum number of log lines that an instance may write in one second.
    pub log_lines_per_s: u32,
}

/// The maximum processor time of each step of loading: instantiation, `describe` and `configure`.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The additional processor time of a call for each KiB that the host copied into the plugin. A payload of protobuf
/// fields of 2 bytes takes the shipped policies 4.3 ms to read for each MiB. This constant allows twice that time.
const TIME_PER_COPIED_KIB: Duration = Duration::from_micros(9);

/// The maximum length of a function's name that is logged with a fault, in bytes.
const MAX_FUNCTION_NAME_BYTES: usize = 200;

/// Why a call did not end with a usable answer. An instance that did not finish the call is discarded.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The call ran past its deadline. The field is the time that the call was allowed.
    #[error("it ran for more than {} ms (`call_timeout_ms`)", .0.as_millis())]
    Deadline(Duration),
    /// A step of loading ran past its deadline.
    #[error("it ran for more than {} s, which no step of loading may take", LOAD_TIMEOUT.as_secs())]
    Loading,
    /// The instance requested more memory than its limit, and failed after the refusal.
    #[error("it wanted more than {} MiB of memory (`memory_mb`): {reason}", .limit >> 20)]
    Memory {
        /// The limit in bytes.
        limit: usize,
        /// The error that ended the call.
        reason: String,
    },
    /// The instance requested larger tables than its limit, and failed after the refusal.
    #[error("it wanted tables of more than {limit} elements (`table_elements`): {reason}")]
    Tables {
        /// The limit in elements.
        limit: usize,
        /// The error that ended the call.
        reason: String,
    },
    /// The instance requested more handles than its limit, which always ends the call.
    #[error("it wanted more than {0} handles (`handles`)")]
    Handles(usize),
    /// The instance trapped.
    #[error("{0}")]
    Trap(String),
    /// The answer is larger than the limit, or it breaks a rule for answers.
    #[error("{0}")]
    Answer(String),
}

impl Fault {
    /// Returns the label of this fault in `gateway_plugin_calls_total`.
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

/// A closure that calls one export of a plugin.
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
    /// Starts an instance that is not configured yet.
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
            // The clock must not stop while a call runs.
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

    /// Returns the additional processor time of a call for the bytes that the host copied into the plugin.
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

    /// Returns the processor time of the last call, without the time before its first tick. It is 0 if the call saw too
    /// few ticks.
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
    clock.call_begins();
    store.data_mut().deadline().set(timeout);
    store.set_epoch_deadline(1);
}

fn fault(error: &wasmtime::Error, store: &Store<State>, limits: Limits, too_late: Fault) -> Fault {
    let cause = text::bounded(error.root_cause());
    match (error.downcast_ref::<Trap>(), store.data().refused()) {
        (Some(Trap::Interrupt), _) => too_late,
        (_, Some(Refused::Memory)) => Fault::Memory { limit: limits.memory, reason: cause },
        (_, Some(Refused::Tables)) => Fault::Tables { limit: limits.table_elements, reason: cause },
        // wasmtime has no types for the errors of the next two cases, so their texts are compared.
        _ if cause.contains("fuel allocated for hostcalls") => {
            Fault::Answer(format!("its result is over {} MiB (`result_mb`)", limits.result >> 20))
        }
        _ if cause.contains("store handle limit exceeded") => Fault::Handles(limits.handles),
        _ => Fault::Trap(text::bounded(format_args!("{cause}{}", Frames(error)))),
    }
}

/// The guest's functions that a fault passed through, innermost first.
///
/// The text of wasmtime's own backtrace is not used. It demangles names, and a C++ name of 1 KB can expand to
/// gigabytes. Here only Rust names are demangled: names of the legacy scheme cannot grow, and the expansion of names of
/// the newer scheme stops at the writer's limit.
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
