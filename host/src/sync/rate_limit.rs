//! A limit on a rate that threads share, in one atomic.

use super::{moment::Moment, token_bucket::TokenBucket};
use std::sync::atomic::{AtomicU64, Ordering};

/// Permits a number of events per second. After a second without events, the same number is permitted in one burst.
///
/// The limit does not know the rate, so that the rate can change at any time.
#[derive(Debug, Default)]
pub struct RateLimit {
    /// A [`TokenBucket`].
    full_at_ns: AtomicU64,
}

impl RateLimit {
    /// Returns whether one more event may happen now, with a limit of `per_s` events per second. If it may, counts the
    /// event. A limit of 0 counts as 1.
    pub fn permit(&self, per_s: u32) -> bool {
        self.permit_at(Moment::now().monotonic_ns(), per_s)
    }

    fn permit_at(&self, now_ns: u64, per_s: u32) -> bool {
        let take = |full_at_ns| {
            let mut bucket = TokenBucket::<1> { full_at_ns };
            bucket.take(now_ns, per_s, 1).then_some(bucket.full_at_ns)
        };
        self.full_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_burst_is_permitted_and_then_only_the_rate() {
        let limit = RateLimit::default();
        let permitted = |from_ms: u64, to_ms: u64| {
            (from_ms..to_ms).flat_map(|ms| [ms; 10]).filter(|ms| limit.permit_at((1000 + ms) * MS, 100)).count()
        };
        assert_eq!(permitted(0, 1), 10);
        assert_eq!(permitted(1, 1000), 189);
        assert_eq!(permitted(1000, 2000), 100);
        assert_eq!((0..1000).filter(|_| limit.permit_at(10_000 * MS, 100)).count(), 100);
    }

    #[test]
    fn a_high_rate_is_exact_to_a_thousandth() {
        let limit = RateLimit::default();
        let permitted = (0..1_000_000).filter(|_| limit.permit_at(MS, 600_000)).count();
        assert!((600_000..=600_600).contains(&permitted), "{permitted}");
    }
}
