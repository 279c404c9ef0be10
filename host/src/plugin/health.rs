//! The health of one generation of a plugin: whether its calls are slow, and whether it fails so often that it is quarantined.
//!
//! A plugin is judged by how many different senders it is slow or fails for, so that one client whose packets make it fail does not take it
//! away from the others. That client's session is judged by `delivery::conduct`.

use crate::sync::uptime::now_ms;
use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;

/// Slow calls for this many different senders within [`SLOW_WINDOW_MS`] offload all calls of the plugin,
const MAX_SLOW_SENDERS: usize = 3;
const SLOW_WINDOW_MS: u64 = 1000;

/// and they stay offloaded until no call was slow for this long.
const OFFLOAD_MS: u64 = 5000;

/// The calls of a new generation that have to be quick on the offload thread, before calls run on threads that serve players. So a new version that
/// loops for ever holds none of those threads, not even once.
const PROBATION_CALLS: u32 = 16;

/// Failed calls for this many different senders, without a successful call in between, quarantine the plugin.
const MAX_FAILED_SENDERS: usize = 5;

/// The first pause of a quarantine. It doubles with each failed trial, up to [`MAX_PAUSE_MS`].
const MIN_PAUSE_MS: u64 = 1000;
const MAX_PAUSE_MS: u64 = 60_000;

/// What a call was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A session's packet, or a message that such a packet caused.
    Session(Uuid),
    /// A message of the bus whose sender is not known. Each counts as a sender of its own.
    Bus,
}

/// Leave for one call.
#[derive(Debug)]
pub struct Admission {
    /// The plugin is in quarantine, and this call tries whether it answers again.
    trial: bool,
}

/// How the state of the plugin changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// It is quarantined for this long.
    Quarantined(Duration),
    /// It is served again.
    Released,
}

/// A generation's record. A time of 0 means: not in that state.
#[derive(Debug)]
pub(super) struct Health {
    probation_calls_left: AtomicU32,
    offloaded_until_ms: AtomicU64,
    trial_at_ms: AtomicU64,
    has_failed: AtomicBool,
    record: Mutex<Record>,
}

/// What only slow and failed calls change.
#[derive(Debug, Default)]
struct Record {
    slow_window_ends_ms: u64,
    slow: Senders,
    failed: Senders,
    failed_trials: u32,
}

/// Different senders; those of the bus are never the same.
#[derive(Debug, Default)]
struct Senders(Vec<Sender>);

impl Senders {
    /// Adds a sender, and returns how many there are.
    fn add(&mut self, sender: Sender, max: usize) -> usize {
        let is_new = sender == Sender::Bus || !self.0.contains(&sender);
        if is_new && self.0.len() < max {
            self.0.push(sender);
        }
        self.0.len()
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            probation_calls_left: AtomicU32::new(PROBATION_CALLS),
            offloaded_until_ms: AtomicU64::default(),
            trial_at_ms: AtomicU64::default(),
            has_failed: AtomicBool::default(),
            record: Mutex::default(),
        }
    }
}

impl Health {
    /// Whether the generation has not shown yet that its calls are quick.
    pub(super) fn is_on_probation(&self) -> bool {
        self.probation_calls_left.load(Ordering::Relaxed) > 0
    }

    /// Whether all calls of the plugin are offloaded, since some were slow.
    pub(super) fn is_offloaded(&self) -> bool {
        let until = self.offloaded_until_ms.load(Ordering::Relaxed);
        if until == 0 {
            return false;
        }
        let offloaded = now_ms() < until;
        if !offloaded {
            self.offloaded_until_ms.store(0, Ordering::Relaxed);
        }
        offloaded
    }

    /// Whether no call is admitted now, not even a trial.
    pub(super) fn is_barred(&self) -> bool {
        let at = self.trial_at_ms.load(Ordering::Relaxed);
        at != 0 && now_ms() < at
    }

    /// Admits a call. In quarantine, one call after each pause is admitted as a trial.
    pub(super) fn admit(&self) -> Option<Admission> {
        let at = self.trial_at_ms.load(Ordering::Relaxed);
        if at == 0 {
            return Some(Admission { trial: false });
        }
        let now = now_ms();
        if now < at {
            return None;
        }
        let next = now + self.record().pause_ms();
        let won = self.trial_at_ms.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        won.then_some(Admission { trial: true })
    }

    /// Whether the plugin is in quarantine.
    pub(super) fn is_quarantined(&self) -> bool {
        self.trial_at_ms.load(Ordering::Relaxed) != 0
    }

    /// Records a call that answered and was not slow.
    pub(super) fn quick(&self) {
        if self.is_on_probation() {
            // An error means that another thread has counted the last of them.
            let _ = self
                .probation_calls_left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        }
    }

    /// Records a slow call.
    pub(super) fn slow(&self, sender: Sender) {
        let now = now_ms();
        let mut record = self.record();
        if now >= record.slow_window_ends_ms {
            record.slow_window_ends_ms = now + SLOW_WINDOW_MS;
            record.slow = Senders::default();
        }
        if record.slow.add(sender, MAX_SLOW_SENDERS) >= MAX_SLOW_SENDERS {
            self.offloaded_until_ms.store(now + OFFLOAD_MS, Ordering::Relaxed);
        }
    }

    /// Records a call that answered.
    pub(super) fn answered(&self) -> Change {
        if !self.has_failed.load(Ordering::Relaxed) {
            return Change::Nothing;
        }
        let mut record = self.record();
        self.has_failed.store(false, Ordering::Relaxed);
        record.failed = Senders::default();
        record.failed_trials = 0;
        if self.trial_at_ms.swap(0, Ordering::Relaxed) == 0 { Change::Nothing } else { Change::Released }
    }

    /// Records a call that failed.
    pub(super) fn failed(&self, admission: &Admission, sender: Sender) -> Change {
        let mut record = self.record();
        self.has_failed.store(true, Ordering::Relaxed);
        if self.is_quarantined() {
            // Calls that began before the quarantine say nothing new.
            if !admission.trial {
                return Change::Nothing;
            }
            record.failed_trials += 1;
        } else if record.failed.add(sender, MAX_FAILED_SENDERS) < MAX_FAILED_SENDERS {
            return Change::Nothing;
        }
        let pause = record.pause_ms();
        self.trial_at_ms.store(now_ms() + pause, Ordering::Relaxed);
        Change::Quarantined(Duration::from_millis(pause))
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        // No code under the lock panics half-way through a change, so a poisoned record is whole.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn pause_ms(&self) -> u64 {
        (MIN_PAUSE_MS << self.failed_trials.min(16)).min(MAX_PAUSE_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Admission = Admission { trial: false };

    fn session(number: u128) -> Sender {
        Sender::Session(Uuid::from_u128(number))
    }

    fn quarantined() -> Health {
        let health = Health::default();
        let changes: Vec<_> = (0..5).map(|i| health.failed(&CALL, session(i))).collect();
        assert_eq!(changes[4], Change::Quarantined(Duration::from_millis(MIN_PAUSE_MS)));
        assert!(changes[..4].iter().all(|change| *change == Change::Nothing));
        health
    }

    fn trial(health: &Health) -> Admission {
        health.trial_at_ms.store(1, Ordering::Relaxed);
        let admission = health.admit().expect("a trial");
        assert!(admission.trial && health.admit().is_none(), "one trial");
        admission
    }

    #[test]
    fn failures_for_different_senders_quarantine_and_an_answer_releases() {
        let health = quarantined();
        assert!(health.is_quarantined() && health.admit().is_none());
        let admission = trial(&health);
        let longer = Duration::from_millis(2 * MIN_PAUSE_MS);
        assert_eq!(health.failed(&admission, session(1)), Change::Quarantined(longer));
        trial(&health);
        assert_eq!(health.answered(), Change::Released);
        assert!(health.admit().is_some_and(|admission| !admission.trial) && !health.is_quarantined());
    }

    #[test]
    fn failures_for_one_session_do_not_quarantine() {
        let health = Health::default();
        for _ in 0..1000 {
            assert_eq!(health.failed(&CALL, session(7)), Change::Nothing);
        }
        assert!(health.admit().is_some());
    }

    #[test]
    fn failures_with_answers_in_between_do_not_quarantine() {
        let health = Health::default();
        for i in 0..100 {
            assert_eq!(health.failed(&CALL, session(i)), Change::Nothing);
            assert_eq!(health.answered(), Change::Nothing);
        }
    }

    #[test]
    fn messages_of_the_bus_are_different_senders() {
        let health = Health::default();
        let last = (0..5).map(|_| health.failed(&CALL, Sender::Bus)).last();
        assert_eq!(last, Some(Change::Quarantined(Duration::from_millis(MIN_PAUSE_MS))));
    }

    #[test]
    fn calls_that_were_under_way_do_not_prolong_the_first_pause() {
        let health = quarantined();
        for i in 0..100 {
            assert_eq!(health.failed(&CALL, session(i)), Change::Nothing);
        }
        let left = health.trial_at_ms.load(Ordering::Relaxed).saturating_sub(now_ms());
        assert!(left <= MIN_PAUSE_MS, "{left} ms");
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let health = quarantined();
        let last = (0..100).map(|_| health.failed(&trial(&health), Sender::Bus)).last();
        assert_eq!(last, Some(Change::Quarantined(Duration::from_millis(MAX_PAUSE_MS))));
    }

    #[test]
    fn a_new_generation_has_to_be_quick_before_it_runs_on_threads_that_serve_players() {
        let health = Health::default();
        for _ in 0..PROBATION_CALLS {
            assert!(health.is_on_probation());
            health.quick();
        }
        assert!(!health.is_on_probation());
        health.quick();
        assert!(!health.is_on_probation());
    }

    #[test]
    fn slow_calls_for_different_senders_offload_the_plugin_for_a_while() {
        let health = Health::default();
        (0..100).for_each(|_| health.slow(session(1)));
        assert!(!health.is_offloaded(), "one session's calls say nothing of the plugin");
        health.slow(session(2));
        health.slow(Sender::Bus);
        assert!(health.is_offloaded());
        health.offloaded_until_ms.store(1, Ordering::Relaxed);
        assert!(!health.is_offloaded());
    }
}
