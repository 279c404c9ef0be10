//! Times as nanoseconds since the program began its work, and what is to happen when.

use std::ops::Range;
use std::time::{Duration, Instant};

/// Nanoseconds since it was made: half the size of an `Instant`, and plain to calculate with.
#[derive(Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> u64 {
        nanos(self.0.elapsed())
    }

    pub(super) fn instant(self, time: u64) -> Instant {
        self.0 + Duration::from_nanos(time)
    }
}

/// When traffic begins, and the part of it that is measured.
#[derive(Clone)]
pub(super) struct Period {
    pub(super) start: u64,
    pub(super) measured: Range<u64>,
}

impl Period {
    pub(super) fn new(start: u64, warmup: Duration, duration: Duration) -> Self {
        let begin = start + nanos(warmup);
        Self { start, measured: begin..begin + nanos(duration) }
    }
}

/// Messages of an open loop are due in groups, one each 500 µs: to sleep and wake up for a single message costs several times as
/// much as to send it.
const TICK: u64 = 500_000;

/// The times of an open loop: message after message at the same distance, but for the ticks, and client after client in turn.
#[derive(Clone, Copy)]
pub(super) struct Schedule {
    clients: u64,
    /// From one message to the next, in picoseconds. An integer, so that no message is due between two ticks by a rounding error.
    interval_ps: u128,
}

impl Schedule {
    /// For so many messages a second.
    pub(super) fn new(clients: usize, rate: f64) -> Self {
        // The command line allows 1e-3 to 1e9.
        Self { clients: clients as u64, interval_ps: (1e12 / rate).round() as u128 }
    }

    /// The message that is this client's `number`th.
    pub(super) fn message(self, client: usize, number: u64) -> u64 {
        number * self.clients + client as u64
    }

    /// How long after the start a message is due.
    pub(super) fn due(self, message: u64) -> u64 {
        let time = narrow(u128::from(message) * self.interval_ps / 1000);
        time - time % TICK
    }

    /// How many messages are due at `elapsed` or before.
    pub(super) fn count(self, elapsed: u64) -> u64 {
        self.total(elapsed - elapsed % TICK + TICK)
    }

    /// How many messages fit into a time.
    pub(super) fn total(self, time: u64) -> u64 {
        narrow((u128::from(time) * 1000).div_ceil(self.interval_ps))
    }

    /// Of the messages `from..to`, how many are each client's. Clients without any are left out.
    pub(super) fn shares(self, from: u64, to: u64) -> impl Iterator<Item = (usize, u64)> {
        let clients = self.clients;
        // A client's index, which is a usize.
        (from..to.min(from + clients)).map(move |first| ((first % clients) as usize, (to - first).div_ceil(clients)))
    }
}

fn nanos(duration: Duration) -> u64 {
    narrow(duration.as_nanos())
}

/// No run takes as long as 2^64 ns, or has as many messages.
fn narrow(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_at_the_same_distance() {
        let schedule = Schedule::new(2, 2000.0);
        assert_eq!(
            [0, 1, 2, 2_000_000].map(|message| schedule.due(message)),
            [0, 500_000, 1_000_000, 1_000_000_000_000]
        );
        assert_eq!([0, 499_999, 500_000, 1_999_999].map(|elapsed| schedule.count(elapsed)), [1, 1, 2, 4]);
        assert_eq!([0, 1, 1_000_000_000].map(|time| schedule.total(time)), [0, 1, 2000]);
        assert_eq!([(0, 0), (1, 0), (0, 1), (1, 5)].map(|(c, n)| schedule.message(c, n)), [0, 1, 2, 11]);
    }

    #[test]
    fn many_messages_are_due_in_groups() {
        let schedule = Schedule::new(2, 5000.0);
        assert_eq!([0, 2, 3, 4, 5].map(|message| schedule.due(message)), [0, 0, 500_000, 500_000, 1_000_000]);
        for rate in [1.0, 3.0, 5000.0, 7777.7, 100_000.0, 1e9] {
            let schedule = Schedule::new(2, rate);
            for elapsed in (0..20_000_000).step_by(10_000) {
                let count = schedule.count(elapsed);
                assert!(
                    schedule.due(count - 1) <= elapsed && elapsed < schedule.due(count),
                    "{rate} {elapsed} {count}"
                );
            }
        }
    }

    #[test]
    fn clients_have_their_turns() {
        let schedule = Schedule::new(3, 1.0);
        let shares = |from, to| schedule.shares(from, to).collect::<Vec<_>>();
        assert_eq!(shares(4, 4), []);
        assert_eq!(shares(4, 5), [(1, 1)]);
        assert_eq!(shares(4, 7), [(1, 1), (2, 1), (0, 1)]);
        assert_eq!(shares(4, 12), [(1, 3), (2, 3), (0, 2)]);
    }

    #[test]
    fn warm_up_is_not_measured() {
        let period = Period::new(7, Duration::from_nanos(10), Duration::from_nanos(100));
        assert_eq!((period.start, period.measured), (7, 17..117));
    }
}
