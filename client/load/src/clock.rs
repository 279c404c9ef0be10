//! Times as nanoseconds since the start of a run, and the schedule of an open loop.

use std::ops::Range;
use std::time::{Duration, Instant};

/// A clock that counts the nanoseconds since it was made. A u64 is half the size of an `Instant`, and easy to calculate
/// with.
#[derive(Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> u64 {
        nanos(self.0.elapsed())
    }

    pub(crate) fn instant(self, time: u64) -> Instant {
        self.0 + Duration::from_nanos(time)
    }
}

/// The time at which traffic begins, and the part of the traffic that is measured.
#[derive(Clone)]
pub(crate) struct Period {
    pub(crate) start: u64,
    pub(crate) measured: Range<u64>,
}

impl Period {
    pub(crate) fn new(start: u64, warmup: Duration, duration: Duration) -> Self {
        let begin = start + nanos(warmup);
        Self { start, measured: begin..begin + nanos(duration) }
    }
}

/// The time from one group of messages to the next in an open loop, in nanoseconds. Messages are due in groups, since
/// to sleep and to wake up for a single message costs several times as much as to send the message.
const TICK: u64 = 500_000;

/// The times of an open loop. Messages follow one another at the same distance, rounded down to a tick. The clients
/// take turns.
#[derive(Clone, Copy)]
pub(crate) struct Schedule {
    clients: u64,
    /// The time from one message to the next, in picoseconds. It is an integer, so that no rounding error puts a
    /// message between two ticks.
    interval_ps: u128,
}

impl Schedule {
    /// Makes a schedule of `rate` messages a second in total.
    pub(crate) fn new(clients: usize, rate: f64) -> Self {
        // The command line allows rates from 1e-3 to 1e9.
        Self { clients: clients as u64, interval_ps: (1e12 / rate).round() as u128 }
    }

    /// The number among all messages of this client's message `number`.
    pub(crate) fn message(self, client: usize, number: u64) -> u64 {
        number * self.clients + client as u64
    }

    /// The time after the start at which a message is due.
    pub(crate) fn due(self, message: u64) -> u64 {
        let time = narrow(u128::from(message) * self.interval_ps / 1000);
        time - time % TICK
    }

    /// The number of messages that are due at `elapsed` or before.
    pub(crate) fn count(self, elapsed: u64) -> u64 {
        self.total(elapsed - elapsed % TICK + TICK)
    }

    /// The number of messages that are due within a time, ticks aside.
    pub(crate) fn total(self, time: u64) -> u64 {
        narrow((u128::from(time) * 1000).div_ceil(self.interval_ps))
    }

    /// The clients of the messages `from..to`, each with the number of its messages. Clients without a message are left
    /// out.
    pub(crate) fn shares(self, from: u64, to: u64) -> impl Iterator<Item = (usize, u64)> {
        let clients = self.clients;
        // The remainder is the index of a client, which is a usize.
        (from..to.min(from + clients)).map(move |first| ((first % clients) as usize, (to - first).div_ceil(clients)))
    }
}

/// The nanoseconds of a duration.
pub(crate) fn nanos(duration: Duration) -> u64 {
    narrow(duration.as_nanos())
}

/// Narrows a number of nanoseconds or messages. No run takes 2^64 ns, or has as many messages.
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
