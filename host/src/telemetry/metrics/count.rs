//! A counter for events that every thread counts with every message.

use crate::sync::sharded::Sharded;
use prometheus_client::metrics::counter::{Atomic, Counter};
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that each thread increments by itself. Its value is the sum over all threads.
pub type Count = Counter<u64, Sharded<AtomicU64>>;

impl Atomic<u64> for Sharded<AtomicU64> {
    /// Returns the former value of this thread's share.
    fn inc(&self) -> u64 {
        self.inc_by(1)
    }

    /// Returns the former value of this thread's share.
    fn inc_by(&self, more: u64) -> u64 {
        self.own().fetch_add(more, Ordering::Relaxed)
    }

    fn get(&self) -> u64 {
        self.into_iter().map(|share| share.load(Ordering::Relaxed)).sum()
    }
}
