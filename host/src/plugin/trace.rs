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
    span::EnteredSpan,
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

/// Returns the span of a call about the presence of a session: `on-connect`, `on-away`, `on-back` or `on-disconnect`.
pub fn on_session(plugin: &str, version: &str, export: &'static str, session: Uuid) -> Span {
    trace_span!("call", plugin, version, export, %session, outcome = Empty, took = Empty)
}

/// Returns the span of a call of `on-wake`.
pub fn on_wake(plugin: &str, version: &str, key: u64) -> Span {
    trace_span!("call", plugin, version, export = "on-wake", key, outcome = Empty, took = Empty)
}

/// A call that is traced. All lines of the log carry its span until it ends.
pub struct Traced {
    span: EnteredSpan,
    began: Instant,
}

/// Returns whether the log has traces.
#[must_use]
pub fn is_on() -> bool {
    LevelFilter::current() >= LevelFilter::TRACE
}

/// Begins to trace a call, if the log has traces. Otherwise the span is not even made.
#[must_use]
pub fn begin(span: impl FnOnce() -> Span) -> Option<Traced> {
    is_on().then(|| Traced { span: span().entered(), began: Instant::now() })
}

/// Ends a traced call: logs one line with the fields of the span, the outcome and the duration.
pub fn end(traced: Option<Traced>, outcome: impl FnOnce() -> &'static str) {
    if let Some(Traced { span, began }) = traced
        && !span.is_disabled()
    {
        span.record("outcome", outcome()).record("took", debug(began.elapsed()));
        trace!("plugin called");
    }
}

/// Returns the outcome of a call as a label of `gateway_plugin_calls_total`.
pub fn outcome<T, E>(result: &Result<Result<T, E>, Fault>) -> &'static str {
    match result {
        Ok(Ok(_)) => "ok",
        Ok(Err(_)) => "rejected",
        Err(fault) => fault.outcome(),
    }
}
