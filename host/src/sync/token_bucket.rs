//! A token bucket in one number, for one owner: the generic cell rate algorithm (ITU-T I.371), also called the leaky
//! bucket.

/// A bucket that gains a number of tokens per second, and holds those of `BURST_S` seconds. A new bucket is full.
///
/// The bucket does not know its rate, so that the rate can change at any time.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenBucket<const BURST_S: u64 = 2> {
    /// The time in nanoseconds at which the bucket is full again.
    pub(super) full_at_ns: u64,
}

impl<const BURST_S: u64> TokenBucket<BURST_S> {
    /// Takes `tokens` tokens out of the bucket. Returns false, and takes nothing, if the bucket has fewer. A rate of 0
    /// counts as 1. At most 2^33 tokens can be taken at once.
    pub fn take(&mut self, now_ns: u64, per_s: u32, tokens: u64) -> bool {
        let cost_ns = tokens.saturating_mul(1_000_000_000) / u64::from(per_s.max(1));
        let full_at_ns = self.full_at_ns.max(now_ns).saturating_add(cost_ns);
        let has_enough = full_at_ns <= now_ns.saturating_add(BURST_S * 1_000_000_000);
        if has_enough {
            self.full_at_ns = full_at_ns;
        }
        has_enough
    }

    /// Returns whether the bucket is full. A full bucket is like a new one.
    #[must_use]
    pub fn is_full(&self, now_ns: u64) -> bool {
        self.full_at_ns <= now_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_burst_of_twice_the_rate_is_permitted_and_then_only_the_rate() {
        let mut bucket = TokenBucket::<2>::default();
        let mut permitted = |now, tries| (0..tries).filter(|_| bucket.take(now, 100, 1)).count();
        assert_eq!(permitted(7 * S, 1000), 200);
        assert_eq!(permitted(7 * S + S / 2, 1000), 50);
        assert_eq!(permitted(7 * S + S / 2, 1000), 0);
        assert_eq!(permitted(8 * S, 1000), 50);
        assert_eq!(permitted(100 * S, 1000), 200);
    }

    #[test]
    fn what_is_more_than_the_bucket_holds_takes_nothing() {
        let mut bucket = TokenBucket::<2>::default();
        assert!(!bucket.take(S, 100, 201));
        assert!(!bucket.take(S, 1, 1 << 34));
        assert!(bucket.is_full(S));
        assert!(bucket.take(S, 100, 200));
        assert!(!bucket.is_full(S) && !bucket.is_full(3 * S - 1) && bucket.is_full(3 * S));
    }

    #[test]
    fn a_new_rate_holds_from_the_next_token_on() {
        let mut bucket = TokenBucket::<2>::default();
        assert!(bucket.take(S, 10, 20) && !bucket.take(S, 10, 1));
        assert_eq!((0..1000).filter(|_| bucket.take(2 * S, 100, 1)).count(), 100);
    }

    proptest! {
        #[test]
        fn no_interval_has_more_tokens_than_the_burst_and_the_rate(
            per_s in 1..5000_u32,
            takes in vec((0..300_000_000_u64, 1..40_u64), 1..200),
        ) {
            let (mut bucket, mut now, mut taken) = (TokenBucket::<2>::default(), S, 0);
            for (pause, tokens) in takes {
                now += pause;
                if bucket.take(now, per_s, tokens) {
                    taken += tokens;
                }
                // Each take rounds its cost down, by less than the cost of a token.
                let most = u64::from(per_s) * (now - S + 2 * S) / S + 1;
                prop_assert!(taken <= most, "{taken} tokens of {most}");
            }
        }
    }
}
