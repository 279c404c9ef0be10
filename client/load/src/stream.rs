//! The numbered messages of one client, from the time at which they are sent to their arrival.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::order::{Arrival, Order};

/// The number of messages that were sent, their times, and the messages that have arrived.
pub(crate) struct Stream {
    sent: u64,
    order: Order,
    /// The time at which each message under way was sent, at its number modulo the length. It is empty in an open loop,
    /// where the schedule has the times.
    sent_at: Box<[u64]>,
    /// The numbers of the messages that were refused.
    refused: BTreeSet<u64>,
    /// The last value of the delivery counter that was seen.
    counter: u32,
    /// Whether the client is in the list of those that may send more.
    pub(crate) listed: bool,
}

impl Stream {
    /// Makes a stream whose window is the number of messages that may be under way. An open loop has a window of 0.
    pub(crate) fn new(window: u64) -> Self {
        // The command line allows at most a million.
        let sent_at = vec![0; window as usize].into();
        Self { sent: 0, order: Order::default(), sent_at, refused: BTreeSet::new(), counter: 0, listed: false }
    }

    /// Takes note that `count` messages are sent now, and returns their numbers.
    pub(crate) fn send(&mut self, count: u64, now: u64) -> Range<u64> {
        let numbers = self.sent..self.sent + count;
        if let Some(window) = self.window() {
            for number in numbers.clone() {
                self.sent_at[(number % window) as usize] = now;
            }
        }
        self.sent = numbers.end;
        numbers
    }

    /// The number of messages that may be sent now. It is 0 until half of the window is free, so that a burst is worth
    /// its write.
    ///
    /// A message that is refused, or overtaken by a later one, counts as arrived. Otherwise a lost message would make
    /// the window smaller for good.
    pub(crate) fn burst(&self) -> u64 {
        let window = self.window().unwrap_or(0);
        let refused = self.refused.range(self.order.next()..).count() as u64;
        let free = window.saturating_sub(self.sent - self.order.next() - refused);
        if free >= window.div_ceil(2) { free } else { 0 }
    }

    /// Takes note of a message that arrived. Returns the time at which it was sent as well, if the window has it.
    /// Returns `None` if the number was never sent.
    pub(crate) fn arrived(&mut self, number: u64) -> Option<(Arrival, Option<u64>)> {
        if number >= self.sent {
            return None;
        }
        let arrival = self.order.arrived(number);
        let sent_at = match (arrival, self.window()) {
            // A later message may have taken the place of this one in the window.
            (Arrival::Late | Arrival::Doubled, _) | (_, None) => None,
            (Arrival::Ordered, Some(window)) => Some(self.sent_at[(number % window) as usize]),
        };
        Some((arrival, sent_at))
    }

    /// Takes note that the gateway has refused a message, which will therefore not arrive.
    pub(crate) fn refused(&mut self, seq: u32) {
        let number = self.number_of(seq);
        if number < self.sent {
            self.refused.insert(number);
        }
    }

    /// The number whose low 32 bits are `seq` and which is nearest to the next number to arrive.
    pub(crate) fn number_of(&self, seq: u32) -> u64 {
        let next = self.order.next();
        let distance = seq.wrapping_sub(next as u32).cast_signed();
        next.wrapping_add_signed(distance.into())
    }

    /// Whether the delivery counter of a push is one more than that of the push before.
    pub(crate) fn counts_on(&mut self, counter: u32) -> bool {
        let expected = self.counter.wrapping_add(1);
        self.counter = counter;
        counter == expected
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// The number of messages that have neither arrived nor been refused.
    pub(crate) fn missing(&self) -> u64 {
        self.order.missing(self.sent).saturating_sub(self.refused.len() as u64)
    }

    /// The lowest number of a message that has neither arrived nor been refused.
    pub(crate) fn first_missing(&self) -> Option<u64> {
        self.order.missing_below(self.sent).find(|number| !self.refused.contains(number))
    }

    fn window(&self) -> Option<u64> {
        (!self.sent_at.is_empty()).then_some(self.sent_at.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_are_half_a_window_at_least() {
        let mut stream = Stream::new(4);
        assert_eq!(stream.burst(), 4);
        assert_eq!(stream.send(4, 10), 0..4);
        assert_eq!(stream.burst(), 0);
        assert_eq!(stream.arrived(0), Some((Arrival::Ordered, Some(10))));
        assert_eq!(stream.burst(), 0);
        stream.arrived(1);
        assert_eq!(stream.burst(), 2);
        assert_eq!(stream.send(2, 20), 4..6);
        // 2 and 3 are overtaken.
        assert_eq!(stream.first_missing(), Some(2));
        assert_eq!(stream.arrived(4), Some((Arrival::Ordered, Some(20))));
        assert_eq!((stream.burst(), stream.missing()), (3, 3));
        assert_eq!(stream.arrived(2), Some((Arrival::Late, None)));
        assert_eq!(stream.arrived(2), Some((Arrival::Doubled, None)));
        assert_eq!((stream.missing(), stream.sent()), (2, 6));
    }

    #[test]
    fn a_window_of_one() {
        let mut stream = Stream::new(1);
        assert_eq!((stream.burst(), stream.send(1, 1)), (1, 0..1));
        assert_eq!(stream.burst(), 0);
        stream.arrived(0);
        assert_eq!(stream.burst(), 1);
    }

    #[test]
    fn what_is_refused_is_not_missing() {
        let mut stream = Stream::new(2);
        stream.send(2, 1);
        stream.refused(0);
        assert_eq!((stream.burst(), stream.missing(), stream.first_missing()), (1, 1, Some(1)));
        stream.send(1, 2);
        stream.refused(1);
        assert_eq!((stream.burst(), stream.missing(), stream.first_missing()), (1, 1, Some(2)));
        stream.arrived(2);
        assert_eq!((stream.burst(), stream.missing(), stream.first_missing()), (2, 0, None));
        stream.refused(3);
        assert_eq!(stream.missing(), 0);
    }

    #[test]
    fn an_open_loop_has_no_window() {
        let mut stream = Stream::new(0);
        assert_eq!(stream.arrived(0), None);
        stream.send(1, 1);
        assert_eq!(stream.arrived(0), Some((Arrival::Ordered, None)));
        assert_eq!(stream.arrived(1), None);
        assert_eq!(stream.first_missing(), None);
    }

    #[test]
    fn a_seq_is_the_low_half_of_a_number() {
        let mut stream = Stream::new(0);
        stream.send(1 << 33, 1);
        assert_eq!(stream.number_of(5), 5);
        stream.arrived((1 << 32) - 2);
        assert_eq!(stream.number_of(u32::MAX), u64::from(u32::MAX));
        assert_eq!(stream.number_of(1), (1 << 32) + 1);
        assert_eq!(stream.number_of(u32::MAX - 5), u64::from(u32::MAX - 5));
    }

    #[test]
    fn the_delivery_counter_counts_from_1() {
        let mut stream = Stream::new(0);
        assert_eq!([1, 2, 4, 5, 5].map(|counter| stream.counts_on(counter)), [true, true, false, true, false]);
    }
}
