//! The metrics of sessions that outlive their connections.

use super::{
    labels::{Outcome, RESUMES, Reason, STORED, UNRESUMED},
    register::{known, known_outcomes, register},
};
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The metrics of sessions that outlive their connections.
#[derive(Debug)]
pub struct Metrics {
    /// Sessions whose clients are away.
    pub parked: Gauge,
    /// The memory that they hold.
    pub parked_bytes: Gauge,
    resumes: Family<Outcome, Counter>,
    unresumed: Family<Reason, Counter>,
    stored: Family<Outcome, Counter>,
}

impl Metrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            parked: register(r, "sessions_parked", "Sessions whose clients are away and may come back"),
            parked_bytes: register(r, "sessions_parked_bytes", "Memory of the sessions whose clients are away"),
            resumes: known_outcomes(r, "resumes", "Clients that wanted their session back, by outcome", RESUMES),
            unresumed: known(
                r,
                "sessions_not_resumed",
                "Sessions that ended while their clients were away, by reason",
                UNRESUMED,
            ),
            stored: known_outcomes(
                r,
                "sessions_stored",
                "Sessions that were left in Redis for their clients when the gateway stopped, by outcome",
                STORED,
            ),
        }
    }

    /// Counts a client that wanted its session back.
    pub fn resumed(&self, outcome: &'static str) {
        debug_assert!(RESUMES.contains(&outcome), "an outcome that is not listed: {outcome}");
        self.resumes.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts a session that was left in Redis, or should have been.
    pub fn stored(&self, is_stored: bool) {
        let [ok, failed] = STORED;
        self.stored.get_or_create(&Outcome { outcome: if is_stored { ok } else { failed } }).inc();
    }

    /// Counts a session that ended while its client was away.
    pub fn not_resumed(&self, cause: &'static str) {
        // Whatever else may end a session, such as an operator, is one reason here.
        let reason = UNRESUMED.into_iter().find(|reason| *reason == cause).unwrap_or("closed");
        self.unresumed.get_or_create(&Reason { reason }).inc();
    }
}
