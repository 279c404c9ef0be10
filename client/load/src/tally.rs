//! The messages that arrived, their times, and the faults.

use std::collections::HashMap;

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
    /// The number of clients that each message on its way to all of them has reached.
    reached: HashMap<u64, usize>,
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
            reached: HashMap::new(),
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

    /// Counts a client that a message for all clients has reached. Returns whether it was the last one.
    pub(crate) fn is_last(&mut self, number: u64, arrival: Arrival, clients: usize) -> bool {
        if arrival == Arrival::Doubled {
            return false;
        }
        let reached = self.reached.entry(number).or_default();
        *reached += 1;
        let is_last = *reached == clients;
        if is_last {
            self.reached.remove(&number);
        }
        is_last
    }

    /// Counts a packet that says that a message was refused.
    pub(crate) fn refused(&mut self, status: u16, payload: &[u8]) {
        self.refused += 1;
        self.refusal.get_or_insert_with(|| format!("status {status}: {}", String::from_utf8_lossy(payload)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_client_is_the_one_after_all_others() {
        use Arrival::{Doubled, Late, Ordered};
        let mut tally = Tally::new().unwrap();
        let arrivals = [(7, Ordered), (8, Ordered), (7, Doubled), (8, Ordered), (7, Late), (7, Doubled)];
        let last = arrivals.map(|(number, arrival)| tally.is_last(number, arrival, 2));
        assert_eq!(last, [false, false, false, true, true, false]);
        assert!(tally.reached.is_empty());
    }
}
