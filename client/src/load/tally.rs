//! What arrived, how long it took, and what went wrong.

use super::histogram::Histogram;
use super::order::Arrival;

/// The counts of one run, and the times in nanoseconds.
pub(super) struct Tally {
    /// Messages that arrived, each once.
    pub(super) arrived: u64,
    pub(super) doubled: u64,
    /// Messages that arrived after a later one of their client.
    pub(super) reordered: u64,
    /// Packets with a status other than 0, and what the first of them said.
    pub(super) refused: u64,
    pub(super) refusal: Option<String>,
    /// Pushes whose delivery counter was not one more than that of the push before.
    pub(super) miscounted: u64,
    /// What is none of this program's messages: somebody else's, or one that was changed on its way, and is then missing.
    pub(super) stray: u64,
    /// From the time when a message was, or should have been sent.
    pub(super) latency: Histogram,
    /// How much later than they should have been messages were sent.
    pub(super) lateness: Histogram,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            arrived: 0,
            doubled: 0,
            reordered: 0,
            refused: 0,
            refusal: None,
            miscounted: 0,
            stray: 0,
            latency: Histogram::new(),
            lateness: Histogram::new(),
        }
    }

    pub(super) fn note(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Ordered => self.arrived += 1,
            Arrival::Late => {
                self.arrived += 1;
                self.reordered += 1;
            }
            Arrival::Doubled => self.doubled += 1,
        }
    }

    pub(super) fn refused(&mut self, status: u16, payload: &[u8]) {
        self.refused += 1;
        self.refusal.get_or_insert_with(|| format!("status {status}: {}", String::from_utf8_lossy(payload)));
    }
}
