//! A limit on a rate in one atomic: the generic cell rate algorithm (ITU-T I.371), also called the leaky bucket.

use super::uptime::now_ms;
use std::sync::atomic::{AtomicU64, Ordering};

/// Permits a number of events per second. After a second without events, the same number is permitted in one burst.
#[derive(Debug)]
pub struct RateLimit {
    per_s: u64,
    /// The time in microseconds at which the bucket is empty again.
    empty_at_us: AtomicU64,
}

impl RateLimit {
    /// Returns a limit of `per_s` events per second. A limit of 0 counts as 1.
    #[must_use]
    pub const fn new(per_s: u32) -> Self {
        Self { per_s: if per_s == 0 { 1 } else { per_s as u64 }, empty_at_us: AtomicU64::new(0) }
    }

    /// Returns whether one more event may happen now. If it may, counts the event.
    pub fn permit(&self) -> bool {
        self.permit_at(self.per_s, now_ms() * 1000)
    }

    /// Does the same as [`Self::permit`], with a limit that may be another one each time.
    pub fn permit_up_to(&self, per_s: u32) -> bool {
        self.permit_at(u64::from(per_s.max(1)), now_ms() * 1000)
    }

    fn permit_at(&self, per_s: u64, now_us: u64) -> bool {
        let next = |empty_at: u64| {
            let filled = empty_at.max(now_us) + 1_000_000 / per_s;
            (filled <= now_us + 1_000_000).then_some(filled)
        };
        self.empty_at_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_permitted_and_then_only_the_rate() {
        let limit = RateLimit::new(100);
        let permitted = |from_ms: u64, to_ms: u64| {
            (from_ms..to_ms).flat_map(|ms| [ms; 10]).filter(|ms| limit.permit_at(100, 1_000_000 + ms * 1000)).count()
        };
        assert_eq!(permitted(0, 1), 10);
        assert_eq!(permitted(1, 1000), 189);
        assert_eq!(permitted(1000, 2000), 100);
        assert_eq!((0..1000).filter(|_| limit.permit_at(100, 10_000_000)).count(), 100);
    }
}
