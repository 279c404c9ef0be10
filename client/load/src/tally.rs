//! The messages that arrived, their times, and the faults.

use hdrhistogram::CreationError;

use crate::order::Arrival;
use crate::times::Times;

/// The counts and the times of one run.
pub(crate) struct Tally {
    /// The messages that arrived. A message that arrives twice counts once.
    pub(crate) arrived: u64,
    /// The messages that arrived again.
    pub(crate) doubled: u64,
    /// The messages that arrived after a later one of their client.
    pub(crate) reordered: u64,
    /// The packets with a status other than 0.
    pub(crate) refused: u64,
    /// The status and the text of the first of these packets.
    pub(crate) refusal: Option<String>,
    /// The pushes whose delivery counter was not one more than that of the push before.
    pub(crate) miscounted: u64,
    /// The messages that are not this program's. A message that was changed on its way counts as well, and is also
    /// lost.
    pub(crate) stray: u64,
    /// The number of clients that each message has reached, in the mode `fanout`.
    pub(crate) reached: Vec<u32>,
    /// The times from when messages were sent, or were due, to when they arrived.
    pub(crate) latency: Times,
    /// The times by which messages were sent later than they were due.
    pub(crate) lateness: Times,
}

impl Tally {
    pub(crate) fn new() -> Result<Self, CreationError> {
        Ok(Self {
            arrived: 0,
            doubled: 0,
            reordered: 0,
            refused: 0,
            refusal: None,
            miscounted: 0,
            stray: 0,
            reached: Vec::new(),
            latency: Times::new()?,
            lateness: Times::new()?,
        })
    }

    /// Counts a message that arrived.
    pub(crate) fn note(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Ordered => self.arrived += 1,
            Arrival::Late => {
                self.arrived += 1;
                self.reordered += 1;
            }
            Arrival::Doubled => self.doubled += 1,
        }
    }

    /// Counts a packet that says that a message was refused.
    pub(crate) fn refused(&mut self, status: u16, payload: &[u8]) {
        self.refused += 1;
        self.refusal.get_or_insert_with(|| format!("status {status}: {}", String::from_utf8_lossy(payload)));
    }
}
