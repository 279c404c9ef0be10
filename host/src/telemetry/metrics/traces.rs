//! The metrics of traces.

use super::{
    labels::{Reason, SPANS_DROPPED},
    register::{known, register},
};
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// The metrics of traces.
#[derive(Debug)]
pub struct Metrics {
    /// Spans that the collector has taken.
    pub exported: Counter,
    /// Handshakes and calls that were not recorded because too many are.
    pub limited: Counter,
    dropped: Family<Reason, Counter>,
}

impl Metrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            exported: register(r, "trace_spans_exported", "Spans that the collector of traces has taken"),
            limited: register(
                r,
                "traces_limited",
                "Handshakes and calls that were not recorded because of traces.max_per_s",
            ),
            dropped: known(r, "trace_spans_dropped", "Spans that were lost, by reason", SPANS_DROPPED),
        }
    }

    /// Counts spans that were lost.
    pub fn dropped(&self, reason: &'static str, spans: usize) {
        debug_assert!(SPANS_DROPPED.contains(&reason), "a reason that is not listed: {reason}");
        self.dropped.get_or_create(&Reason { reason }).inc_by(spans as u64);
    }
}
