//! A log line that strangers can cause is written at most once a second; the rest are counted.

use crate::uptime::now_ms;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lets one line a second through.
#[derive(Debug, Default)]
pub struct Throttle {
    next_ms: AtomicU64,
    held_back: AtomicU64,
}

impl Throttle {
    /// A throttle that lets the next line through.
    #[must_use]
    pub const fn new() -> Self {
        Self { next_ms: AtomicU64::new(0), held_back: AtomicU64::new(0) }
    }

    /// Where the line may be written: how many were held back since the last one.
    pub fn permit(&self) -> Option<u64> {
        let now = now_ms();
        let next = self.next_ms.load(Ordering::Relaxed);
        let mine = now >= next
            && self.next_ms.compare_exchange(next, now + 1000, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if mine {
            return Some(self.held_back.swap(0, Ordering::Relaxed));
        }
        self.held_back.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_and_the_rest_counted() {
        let throttle = Throttle::new();
        assert_eq!([throttle.permit(), throttle.permit(), throttle.permit()], [Some(0), None, None]);
        throttle.next_ms.store(0, Ordering::Relaxed);
        assert_eq!(throttle.permit(), Some(2));
    }
}
