//! A trace span for each call of a plugin. With `RUST_LOG=gateway=trace`, a plugin author can follow one packet through
//! a plugin.
//!
//! Every line that is logged during the call carries the span, including the plugin's own lines. If tracing is off, a
//! call costs one check of the log level.

use super::fault::Fault;
use std::time::Instant;
use tracing::{
    Span,
    field::{Empty, debug},
    level_filters::LevelFilter,
    trace, trace_span,
};
use uuid::Uuid;

/// Returns the span of a call of `describe`. The plugin's name is not known before this call.
pub fn describe() -> Span {
    trace_span!("call", export = "describe", outcome = Empty, took = Empty)
}

/// Returns the span of a call of `configure`.
pub fn configure(plugin: &str, version: &str) -> Span {
    trace_span!("call", plugin, version, export = "configure", outcome = Empty, took = Empty)
}

/// Returns the span of a call of `on-packet`.
pub fn on_packet(plugin: &str, version: &str, route: u8, seq: u32, session: Uuid) -> Span {
    trace_span!(
        "call",
        plugin,
        version,
        export = "on-packet",
        route,
        seq,
        %session,
        outcome = Empty,
        took = Empty
    )
}

/// Returns the span of a call of `on-message`.
pub fn on_message(plugin: &str, version: &str, topic: &str) -> Span {
    trace_span!("call", plugin, version, export = "on-message", topic, outcome = Empty, took = Empty)
}

/// Returns the span of a call of `on-connect` or `on-disconnect`.
pub fn on_session(plugin: &str, version: &str, export: &'static str, session: Uuid) -> Span {
    trace_span!("call", plugin, version, export, %session, outcome = Empty, took = Empty)
}

/// Returns the span of a call of `on-wake`.
pub fn on_wake(plugin: &str, version: &str, key: u64) -> Span {
    trace_span!("call", plugin, version, export = "on-wake", key, outcome = Empty, took = Empty)
}

/// Runs `call` within a span. If the log has traces, logs one line at the end with the fields of the span, the outcome
/// and the duration. Otherwise the span is not even made.
pub fn within<R>(span: impl FnOnce() -> Span, call: impl FnOnce() -> R, outcome: impl FnOnce(&R) -> &'static str) -> R {
    if LevelFilter::current() >= LevelFilter::TRACE { traced(span(), call, outcome) } else { call() }
}

#[cold]
fn traced<R>(span: Span, call: impl FnOnce() -> R, outcome: impl FnOnce(&R) -> &'static str) -> R {
    let began = Instant::now();
    let result = span.in_scope(call);
    if !span.is_disabled() {
        span.record("outcome", outcome(&result)).record("took", debug(began.elapsed()));
        span.in_scope(|| trace!("plugin called"));
    }
    result
}

/// Returns the outcome of a call as a label of `gateway_plugin_calls_total`.
pub fn outcome<T, E>(result: &Result<Result<T, E>, Fault>) -> &'static str {
    match result {
        Ok(Ok(_)) => "ok",
        Ok(Err(_)) => "rejected",
        Err(fault) => fault.outcome(),
    }
}
