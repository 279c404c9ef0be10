//! The arrival of a series of numbered messages: which are missing, and which arrived twice or late.

use std::collections::BTreeMap;

/// The numbers 0, 1, 2 … as they arrive.
#[derive(Default)]
pub(crate) struct Order {
    /// One more than the highest number that has arrived.
    next: u64,
    /// The numbers that are missing below `next`: the first number of each gap, and the first number after the gap. A
    /// run that loses messages has far fewer gaps than lost messages.
    gaps: BTreeMap<u64, u64>,
}

/// The way in which a message arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The message arrived before any later one.
    Ordered,
    /// The message arrived after a later one.
    Late,
    /// The message had arrived already.
    Doubled,
}

impl Order {
    /// One more than the highest number that has arrived. A lower number has arrived or is overtaken.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Takes note of a message that arrived.
    pub(crate) fn arrived(&mut self, number: u64) -> Arrival {
        if number < self.next {
            return if self.fill(number) { Arrival::Late } else { Arrival::Doubled };
        }
        if number > self.next {
            self.gaps.insert(self.next, number);
        }
        self.next = number + 1;
        Arrival::Ordered
    }

    /// The number of messages among the first `sent` that have not arrived.
    pub(crate) fn missing(&self, sent: u64) -> u64 {
        let overtaken: u64 = self.gaps.iter().map(|(first, end)| end - first).sum();
        overtaken + sent.saturating_sub(self.next)
    }

    /// The messages among the first `sent` that have not arrived.
    pub(crate) fn missing_below(&self, sent: u64) -> impl Iterator<Item = u64> {
        self.gaps.iter().flat_map(|(first, end)| *first..*end).chain(self.next..sent)
    }

    /// Takes a number out of its gap. Returns whether the number was missing.
    fn fill(&mut self, number: u64) -> bool {
        let Some((&first, &end)) = self.gaps.range(..=number).next_back() else { return false };
        if number >= end {
            return false;
        }
        self.gaps.remove(&first);
        if first < number {
            self.gaps.insert(first, number);
        }
        if number + 1 < end {
            self.gaps.insert(number + 1, end);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(numbers: &[u64], arrivals: &[Arrival], missing_of_ten: u64) {
        let mut order = Order::default();
        let seen: Vec<_> = numbers.iter().map(|&number| order.arrived(number)).collect();
        assert_eq!(seen, arrivals);
        assert_eq!(order.missing(10), missing_of_ten);
        let missing: Vec<_> = (0..10).filter(|number| !numbers.contains(number)).collect();
        assert_eq!(order.missing_below(10).collect::<Vec<_>>(), missing);
    }

    use Arrival::{Doubled, Late, Ordered};

    #[test]
    fn in_order() {
        check(&[], &[], 10);
        check(&[0, 1, 2], &[Ordered; 3], 7);
    }

    #[test]
    fn a_gap_is_missing_until_it_is_filled() {
        check(&[0, 4], &[Ordered; 2], 8);
        check(&[0, 4, 2, 2, 1, 3], &[Ordered, Ordered, Late, Doubled, Late, Late], 5);
        check(&[9, 0, 8], &[Ordered, Late, Late], 7);
    }

    #[test]
    fn what_has_arrived_comes_again() {
        check(&[0, 1, 0, 1, 2], &[Ordered, Ordered, Doubled, Doubled, Ordered], 7);
    }
}
