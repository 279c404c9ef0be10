//! How a plugin does: whether it is too slow to run beside the players, and whether it fails so often that it is not asked any more.

use crate::sync::uptime::now_ms;
use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

/// A call that keeps its thread busy for longer is slow. A policy takes microseconds.
const SLOW: Duration = Duration::from_millis(1);
/// So many slow calls within [`WINDOW_MS`] send a plugin's calls aside,
const SLOW_CALLS: u32 = 3;
const WINDOW_MS: u64 = 1000;
/// and so does a single one that takes longer than this,
const VERY_SLOW: Duration = Duration::from_millis(10);
/// until none was slow for so long.
const ASIDE_MS: u64 = 5000;

/// So many calls that fail in a row quarantine a plugin,
const FAULTS: u32 = 5;
/// for a pause that doubles with each failed trial,
const FIRST_PAUSE_MS: u64 = 1000;
/// up to this.
const LONGEST_PAUSE_MS: u64 = 60_000;

/// A generation's record. Zero times mean: not in that state.
#[derive(Debug, Default)]
pub(super) struct Health {
    window_ends: AtomicU64,
    slow_calls: AtomicU32,
    aside_until: AtomicU64,
    faults: AtomicU32,
    trial_at: AtomicU64,
    trials: AtomicU32,
}

/// What a call changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// It is not asked any more, for so long.
    Quarantined(Duration),
    /// It is asked again.
    Released,
}

impl Health {
    /// Whether its calls shall not run on the threads that serve players.
    pub(super) fn is_slow(&self) -> bool {
        let until = self.aside_until.load(Ordering::Relaxed);
        if until == 0 {
            return false;
        }
        let slow = now_ms() < until;
        if !slow {
            self.aside_until.store(0, Ordering::Relaxed);
        }
        slow
    }

    /// Whether it may not be asked, not even as a trial.
    pub(super) fn is_barred(&self) -> bool {
        let at = self.trial_at.load(Ordering::Relaxed);
        at != 0 && now_ms() < at
    }

    /// Whether it may be asked. In quarantine one call in each pause may, as a trial.
    pub(super) fn admits(&self) -> bool {
        let at = self.trial_at.load(Ordering::Relaxed);
        if at == 0 {
            return true;
        }
        let now = now_ms();
        let next = now + self.pause_ms();
        now >= at && self.trial_at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether it is in quarantine.
    pub(super) fn is_quarantined(&self) -> bool {
        self.trial_at.load(Ordering::Relaxed) != 0
    }

    /// Takes note of a call.
    pub(super) fn called(&self, took: Duration, failed: bool) -> Change {
        if took > SLOW {
            self.slow_call(took > VERY_SLOW);
        }
        if failed { self.failed() } else { self.answered() }
    }

    fn slow_call(&self, very: bool) {
        let now = now_ms();
        if now >= self.window_ends.load(Ordering::Relaxed) {
            self.window_ends.store(now + WINDOW_MS, Ordering::Relaxed);
            self.slow_calls.store(0, Ordering::Relaxed);
        }
        if self.slow_calls.fetch_add(1, Ordering::Relaxed) + 1 >= SLOW_CALLS || very {
            self.aside_until.store(now + ASIDE_MS, Ordering::Relaxed);
        }
    }

    fn answered(&self) -> Change {
        if self.faults.load(Ordering::Relaxed) == 0 {
            return Change::Nothing;
        }
        self.faults.store(0, Ordering::Relaxed);
        if self.trial_at.swap(0, Ordering::Relaxed) == 0 {
            return Change::Nothing;
        }
        self.trials.store(0, Ordering::Relaxed);
        Change::Released
    }

    fn failed(&self) -> Change {
        if self.faults.fetch_add(1, Ordering::Relaxed) + 1 < FAULTS {
            return Change::Nothing;
        }
        let pause = self.pause_ms();
        self.trials.fetch_add(1, Ordering::Relaxed);
        self.trial_at.store(now_ms() + pause, Ordering::Relaxed);
        Change::Quarantined(Duration::from_millis(pause))
    }

    fn pause_ms(&self) -> u64 {
        let doublings = self.trials.load(Ordering::Relaxed).min(16);
        (FIRST_PAUSE_MS << doublings).min(LONGEST_PAUSE_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_micros(1);

    #[test]
    fn failures_in_a_row_quarantine_and_an_answer_releases() {
        let health = Health::default();
        for _ in 0..FAULTS - 1 {
            assert_eq!(health.called(FAST, true), Change::Nothing);
        }
        assert_eq!(health.called(FAST, false), Change::Nothing);
        for _ in 0..FAULTS - 1 {
            assert!(health.admits());
            assert_eq!(health.called(FAST, true), Change::Nothing);
        }
        assert_eq!(health.called(FAST, true), Change::Quarantined(Duration::from_millis(FIRST_PAUSE_MS)));
        assert!(health.is_quarantined() && !health.admits());
        health.trial_at.store(1, Ordering::Relaxed);
        assert!(health.admits() && !health.admits(), "one trial");
        assert_eq!(health.called(FAST, true), Change::Quarantined(Duration::from_millis(2 * FIRST_PAUSE_MS)));
        assert_eq!(health.called(FAST, false), Change::Released);
        assert!(health.admits() && !health.is_quarantined());
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let health = Health::default();
        let last = (0..100).map(|_| health.called(FAST, true)).last();
        assert_eq!(last, Some(Change::Quarantined(Duration::from_millis(LONGEST_PAUSE_MS))));
    }

    #[test]
    fn slow_calls_in_a_row_send_it_aside_for_a_while() {
        let health = Health::default();
        for _ in 0..SLOW_CALLS {
            assert!(!health.is_slow());
            health.called(SLOW * 2, false);
        }
        assert!(health.is_slow());
        health.aside_until.store(1, Ordering::Relaxed);
        assert!(!health.is_slow());
    }
}
