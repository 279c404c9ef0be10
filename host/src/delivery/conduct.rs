//! The conduct of one session: whether its packets make plugins slow or fail.
//!
//! A slow or failed call counts against its session before it counts against the plugin. So a client whose packets a
//! plugin cannot handle slows down and loses its own session only.

use crate::sync::uptime::now_ms;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How long a session's calls are offloaded after a slow or failed call, in milliseconds.
const OFFLOAD_AFTER_SLOW_CALL_MS: u64 = 5000;

/// The rate of failures that is never punished: one failed call in this many milliseconds.
const FAULT_INTERVAL_MS: u64 = 1000;

/// The number of failed calls above one per [`FAULT_INTERVAL_MS`] that have no penalty. After these calls, a session
/// gets only one call per interval.
const MAX_FREE_FAULTS: u64 = 5;

/// The session ends after this many failed calls in addition to the [`MAX_FREE_FAULTS`].
const MAX_FAULTS_IN_PAUSE: u32 = 5;

/// The number of packets with others right behind them for which plugins are called singly, if a call for several packets
/// was not possible, or was not used to its end. So about one call in a thousand is in vain, with up to 16 decisions.
const SINGLE_CALLS: u32 = 1024;

/// The record of one session. A time of 0 means that the session is not in that state.
#[derive(Debug, Default)]
pub struct Conduct {
    offloaded_until_ms: AtomicU64,
    /// The time at which all failures so far are forgiven. Each failure adds one interval.
    forgiven_at_ms: AtomicU64,
    faults_in_pause: AtomicU32,
    /// The number of packets left for which plugins are called singly.
    single_calls: AtomicU32,
}

/// The penalty of a session for a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Penalty {
    /// There is no penalty, or only the pause that [`Conduct::is_paused`] reports.
    None,
    /// The session has to end.
    Close,
}

impl Conduct {
    /// Returns whether the session's calls run on the plugin's offload thread, because one of them was recently
    /// slow or failed.
    #[must_use]
    pub fn is_offloaded(&self) -> bool {
        let until = self.offloaded_until_ms.load(Ordering::Relaxed);
        until != 0 && now_ms() < until
    }

    /// Returns whether the session has to wait before its next call.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        let forgiven_at = self.forgiven_at_ms.load(Ordering::Relaxed);
        forgiven_at != 0 && forgiven_at > now_ms() + (MAX_FREE_FAULTS - 1) * FAULT_INTERVAL_MS
    }

    /// Returns whether a plugin may decide on the session's next packet together with those behind it. The caller asks
    /// once for each packet.
    pub fn takes_batches(&self) -> bool {
        if let left @ 1.. = self.single_calls.load(Ordering::Relaxed) {
            self.single_calls.store(left - 1, Ordering::Relaxed);
            return false;
        }
        !self.is_offloaded() && !self.is_paused()
    }

    /// Lets plugins be called singly for a while, because decisions on several packets were of no use or not possible.
    pub fn end_batches(&self) {
        self.single_calls.store(SINGLE_CALLS, Ordering::Relaxed);
    }

    /// Records a slow call.
    pub fn record_slow(&self) {
        self.offloaded_until_ms.store(now_ms() + OFFLOAD_AFTER_SLOW_CALL_MS, Ordering::Relaxed);
    }

    /// Records a failed call, and returns its penalty.
    pub fn record_failed(&self) -> Penalty {
        let now = now_ms();
        self.offloaded_until_ms.store(now + OFFLOAD_AFTER_SLOW_CALL_MS, Ordering::Relaxed);
        let before = self.forgiven_at_ms.load(Ordering::Relaxed);
        self.forgiven_at_ms.store(before.max(now) + FAULT_INTERVAL_MS, Ordering::Relaxed);
        if before <= now {
            self.faults_in_pause.store(0, Ordering::Relaxed);
        } else if before > now + (MAX_FREE_FAULTS - 2) * FAULT_INTERVAL_MS {
            let faults = self.faults_in_pause.fetch_add(1, Ordering::Relaxed) + 1;
            // The first failure that is counted here is the one that began the pause.
            return if faults > MAX_FAULTS_IN_PAUSE { Penalty::Close } else { Penalty::None };
        }
        Penalty::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_failures_are_free_then_the_session_waits_and_then_it_ends() {
        let conduct = Conduct::default();
        assert!(!conduct.is_paused() && !conduct.is_offloaded());
        for _ in 0..MAX_FREE_FAULTS {
            assert!(!conduct.is_paused());
            assert_eq!(conduct.record_failed(), Penalty::None);
        }
        assert!(conduct.is_paused() && conduct.is_offloaded());
        let penalties: Vec<_> = (0..MAX_FAULTS_IN_PAUSE).map(|_| conduct.record_failed()).collect();
        let (last, others) = penalties.split_last().unwrap();
        assert_eq!(*last, Penalty::Close);
        assert!(others.iter().all(|penalty| *penalty == Penalty::None));
    }

    #[test]
    fn after_a_batch_that_was_of_no_use_plugins_are_called_singly_for_a_while() {
        let conduct = Conduct::default();
        assert!(conduct.takes_batches());
        conduct.end_batches();
        assert_eq!((0..).take_while(|_| !conduct.takes_batches()).count() as u32, SINGLE_CALLS);
        conduct.record_slow();
        assert!(!conduct.takes_batches());
    }

    #[test]
    fn failures_are_forgiven_with_time() {
        let conduct = Conduct::default();
        for _ in 0..MAX_FREE_FAULTS {
            conduct.record_failed();
        }
        conduct.forgiven_at_ms.store(now_ms(), Ordering::Relaxed);
        assert!(!conduct.is_paused());
        assert_eq!(conduct.record_failed(), Penalty::None);
        assert_eq!(conduct.faults_in_pause.load(Ordering::Relaxed), 0);
    }
}
