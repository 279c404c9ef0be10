//! The timers of one plugin. There is one timer for each key in the whole gateway, however many instances the plugin has.

use crate::sync::uptime::now_ms;
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// The maximum number of timers that one plugin may have set.
pub(super) const MAX_TIMERS: usize = 100_000;

/// The longest time until a timer whose calls keep failing is tried again, in milliseconds.
const MAX_RETRY_MS: u64 = 10_000;

/// The shortest time until a timer whose call failed is tried again, in milliseconds.
const MIN_RETRY_MS: u64 = 10;

/// The timers of one plugin.
pub struct Timers {
    set: Mutex<Set>,
    /// Wakes up the task that waits for timers.
    earlier: Arc<Notify>,
}

#[derive(Default)]
struct Set {
    timers: HashMap<u64, Timer>,
    /// The timers by the time at which they are due.
    due: BTreeSet<(u64, u64)>,
    /// The timers whose calls are under way, and which the plugin has neither set nor cancelled since, with the number of
    /// the call. If a timer is set during its call, the next call may begin before this one is over.
    under_way: HashMap<u64, u64>,
    /// The number of calls so far.
    calls: u64,
}

/// A timer that is set.
#[derive(Clone, Copy)]
struct Timer {
    /// The time at which it is due, on the clock of [`now_ms`].
    due_ms: u64,
    /// The time that it was set with.
    after_ms: u64,
    /// The number of calls that have failed since the plugin set it.
    failures: u32,
}

/// A timer that is due, and no longer set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) key: u64,
    /// The number of the call.
    call: u64,
    after_ms: u64,
    failures: u32,
}

impl Timers {
    pub(super) fn new(earlier: Arc<Notify>) -> Self {
        Self { set: Mutex::default(), earlier }
    }

    /// Returns the number of timers that are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.set().timers.len()
    }

    /// Returns whether no timer is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets a timer, in place of the timer with the same key.
    pub(super) fn set_timer(&self, key: u64, after_ms: u64) {
        // The clock's current millisecond has partly passed, so one more is added. A timer is never early.
        let due_ms = now_ms().saturating_add(after_ms).saturating_add(1);
        let mut set = self.set();
        set.under_way.remove(&key);
        self.put(set, key, Timer { due_ms, after_ms, failures: 0 });
    }

    /// Cancels a timer, if it is set or if its call is under way.
    pub(super) fn cancel(&self, key: u64) {
        let mut set = self.set();
        set.under_way.remove(&key);
        set.remove(key);
    }

    /// Records that the call for a timer has succeeded.
    pub(super) fn done(&self, due: Due) {
        self.set().end(due);
    }

    /// Sets a timer again whose call failed, unless it has been set or cancelled in the meantime. The time until the next
    /// call is the time that it was set with. It doubles with each further failure.
    pub(super) fn retry(&self, failed: Due) {
        let Due { key, after_ms, failures, .. } = failed;
        let pause = after_ms.max(MIN_RETRY_MS).saturating_mul(1 << failures.min(16));
        let due_ms = now_ms().saturating_add(pause.min(after_ms.max(MAX_RETRY_MS)));
        let mut set = self.set();
        if set.end(failed) {
            self.put(set, key, Timer { due_ms, after_ms, failures: failures + 1 });
        }
    }

    fn put(&self, mut set: MutexGuard<'_, Set>, key: u64, timer: Timer) {
        set.remove(key);
        set.timers.insert(key, timer);
        set.due.insert((timer.due_ms, key));
        let is_first = set.due.first() == Some(&(timer.due_ms, key));
        drop(set);
        if is_first {
            self.earlier.notify_one();
        }
    }

    /// Returns the time at which the next timer is due, on the clock of [`now_ms`].
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.set().due.first().map(|(due_ms, _)| *due_ms)
    }

    /// Removes and returns a timer that was due at `now`. The caller makes its call, and then calls [`Self::done`] or
    /// [`Self::retry`].
    pub(super) fn take_due(&self, now: u64) -> Option<Due> {
        let mut set = self.set();
        let (due_ms, key) = *set.due.first()?;
        if due_ms > now {
            return None;
        }
        let Timer { after_ms, failures, .. } = set.remove(key)?;
        set.calls += 1;
        let call = set.calls;
        set.under_way.insert(key, call);
        Some(Due { key, call, after_ms, failures })
    }

    fn set(&self) -> MutexGuard<'_, Set> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Set {
    /// Records that a call is over. Returns false if its timer was set or cancelled in the meantime.
    fn end(&mut self, Due { key, call, .. }: Due) -> bool {
        let is_under_way = self.under_way.get(&key) == Some(&call);
        if is_under_way {
            self.under_way.remove(&key);
        }
        is_under_way
    }

    fn remove(&mut self, key: u64) -> Option<Timer> {
        let timer = self.timers.remove(&key)?;
        self.due.remove(&(timer.due_ms, key));
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timers() -> Timers {
        Timers::new(Arc::default())
    }

    fn take_all(timers: &Timers, now: u64) -> Vec<u64> {
        std::iter::from_fn(|| timers.take_due(now)).map(|due| due.key).collect()
    }

    #[test]
    fn timers_are_due_in_the_order_of_their_times_and_never_early() {
        let timers = timers();
        let now = now_ms();
        timers.set_timer(1, 300);
        timers.set_timer(2, 100);
        timers.set_timer(3, 200);
        assert!(take_all(&timers, now + 100).is_empty());
        assert_eq!(take_all(&timers, now + 10_000), [2, 3, 1]);
        assert!(timers.is_empty() && timers.next_due_ms().is_none());
    }

    #[test]
    fn a_timer_that_is_set_again_is_due_once_at_the_new_time() {
        let timers = timers();
        let now = now_ms();
        timers.set_timer(1, 10);
        timers.set_timer(1, 50_000);
        assert_eq!((timers.len(), take_all(&timers, now + 20_000)), (1, vec![]));
        timers.set_timer(1, 0);
        assert_eq!(take_all(&timers, now + 20_000), [1]);
        timers.set_timer(2, 0);
        timers.cancel(2);
        timers.cancel(3);
        assert!(take_all(&timers, u64::MAX).is_empty());
    }

    #[test]
    fn a_timer_whose_call_failed_is_due_again_with_growing_pauses() {
        let timers = timers();
        timers.set_timer(1, 50);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let due = timers.take_due(u64::MAX).unwrap();
            let now = now_ms();
            timers.retry(due);
            pauses.push((timers.next_due_ms().unwrap() - now) / 50 * 50);
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        let due = timers.take_due(u64::MAX).unwrap();
        timers.set_timer(1, 70_000);
        timers.retry(due);
        assert!(timers.next_due_ms().unwrap() > now_ms() + 60_000, "the plugin's own time is kept");
        let due = timers.take_due(u64::MAX).unwrap();
        timers.cancel(1);
        timers.retry(due);
        assert!(timers.is_empty(), "a timer that is cancelled during its call does not come back");
    }

    #[test]
    fn the_end_of_a_call_does_not_end_the_next_one_of_the_same_timer() {
        let timers = timers();
        timers.set_timer(1, 50);
        let first = timers.take_due(u64::MAX).unwrap();
        timers.set_timer(1, 50);
        let second = timers.take_due(u64::MAX).unwrap();
        timers.done(first);
        timers.retry(second);
        assert_eq!(timers.len(), 1);
        assert_eq!(take_all(&timers, u64::MAX), [1]);
    }
}
