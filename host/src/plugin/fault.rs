//! Why a call of a plugin failed.

use super::{
    limits::{LOAD_TIMEOUT, Limits},
    state::{Refused, State},
};
use crate::telemetry::text;
use std::{fmt, time::Duration};
use wasmtime::{Store, Trap, WasmBacktrace};

/// The maximum length of a function's name that is logged with a fault, in bytes.
const MAX_FUNCTION_NAME_BYTES: usize = 200;

/// Why a call did not end with a usable answer. An instance that did not finish the call is discarded.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The call ran past its deadline. The field is the processor time that the call was allowed.
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

/// Translates an error of wasmtime into the fault of the call. If the deadline has expired, the fault is `too_late`.
pub(super) fn fault(error: &wasmtime::Error, store: &Store<State>, limits: Limits, too_late: Fault) -> Fault {
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
