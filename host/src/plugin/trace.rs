//! A span for each call of a plugin, for those who follow one packet through it: `RUST_LOG=gateway=trace`. Whatever is logged during
//! the call, by the plugin too, carries the span. While nobody asks for it, a call pays for one look at the log's level.

use super::{Fault, Packet, Plugin};
use std::time::Instant;
use tracing::{
    Span,
    field::{Empty, debug},
    trace, trace_span,
};
use uuid::Uuid;

/// The span of `describe`, of a file whose name is not known yet.
pub fn describe() -> Span {
    trace_span!("call", export = "describe", outcome = Empty, took = Empty)
}

/// The span of `configure`.
pub fn configure(plugin: &str, version: &str) -> Span {
    trace_span!("call", plugin, version, export = "configure", outcome = Empty, took = Empty)
}

/// The span of `on-packet`.
pub fn on_packet(plugin: &Plugin, packet: &Packet) -> Span {
    trace_span!(
        "call",
        plugin = &**plugin.name(),
        version = plugin.version(),
        export = "on-packet",
        route = packet.route,
        seq = packet.seq,
        session = %Uuid::from_u64_pair(packet.session.high, packet.session.low),
        outcome = Empty,
        took = Empty
    )
}

/// The span of `on-message`.
pub fn on_message(plugin: &Plugin, topic: &str) -> Span {
    trace_span!(
        "call",
        plugin = &**plugin.name(),
        version = plugin.version(),
        export = "on-message",
        topic,
        outcome = Empty,
        took = Empty
    )
}

/// Calls within the span, and tells of the end in a line that has all of it.
pub fn within<R>(span: &Span, call: impl FnOnce() -> R, outcome: impl FnOnce(&R) -> &'static str) -> R {
    let began = (!span.is_disabled()).then(Instant::now);
    let result = span.in_scope(call);
    if let Some(began) = began {
        span.record("outcome", outcome(&result)).record("took", debug(began.elapsed()));
        span.in_scope(|| trace!("plugin called"));
    }
    result
}

/// The outcome of a call, as in `gateway_plugin_calls_total`.
pub fn outcome<T, E>(result: &Result<Result<T, E>, Fault>) -> &'static str {
    match result {
        Ok(Ok(_)) => "ok",
        Ok(Err(_)) => "rejected",
        Err(fault) => fault.outcome(),
    }
}
