//! How long messages took: a histogram whose buckets grow with the value.
//!
//! Each power of two is divided into 128 buckets of the same width, so a quantile is at most 1/128 (0.8 %) above the true value,
//! whatever its size. It counts without allocating; to keep and sort every value would cost 8 bytes a message.

/// Buckets of each power of two, as a power of two.
const SUB_BITS: u32 = 7;

/// Values have fewer bits than this; larger ones count as the largest. In nanoseconds, that is 18 minutes.
const VALUE_BITS: u32 = 40;

/// Values below 2^(SUB_BITS + 1) have a bucket each; each further bit adds 2^SUB_BITS buckets.
const BUCKETS: usize = ((VALUE_BITS - SUB_BITS + 1) as usize) << SUB_BITS;

/// Counts of values, mostly nanoseconds.
pub(super) struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    max: u64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { buckets: vec![0; BUCKETS].into(), count: 0, max: 0 }
    }

    pub(super) fn record(&mut self, value: u64) {
        self.buckets[bucket(value)] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// The largest value, exactly.
    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// The smallest bucket's upper end that at least `per_mille` of all values do not exceed (nearest rank), and no more than
    /// the maximum. None of no values.
    pub(super) fn quantile(&self, per_mille: u64) -> Option<u64> {
        let rank = (self.count * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(upper_end(index).min(self.max));
            }
        }
        None
    }
}

fn bucket(value: u64) -> usize {
    let value = value.min((1 << VALUE_BITS) - 1);
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(SUB_BITS + 1);
    // At most BUCKETS, which is a usize.
    ((u64::from(shift) << SUB_BITS) + (value >> shift)) as usize
}

fn upper_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket >> SUB_BITS).saturating_sub(1);
    ((bucket - (shift << SUB_BITS) + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::new();
        values.into_iter().for_each(|value| histogram.record(value));
        histogram
    }

    #[test]
    fn small_values_are_exact() {
        let histogram = histogram((1..=100).rev());
        let quantiles = [0, 10, 500, 990, 999, 1000].map(|per_mille| histogram.quantile(per_mille).unwrap());
        assert_eq!(quantiles, [1, 1, 50, 99, 100, 100]);
        assert_eq!(histogram.max(), 100);
    }

    #[test]
    fn large_values_are_at_most_a_128th_too_large() {
        for bits in 8..VALUE_BITS {
            for value in [1 << bits, (1 << bits) + 1, (1 << bits) * 3 / 2, (2 << bits) - 1] {
                let end = upper_end(bucket(value));
                assert!(end >= value && end - value <= value / 128, "{value}: {end}");
            }
        }
    }

    #[test]
    fn each_value_lies_in_the_bucket_after_that_of_a_smaller_one_or_in_the_same() {
        for value in 0..100_000 {
            let (this, next) = (bucket(value), bucket(value + 1));
            assert!(next == this || (next == this + 1 && upper_end(this) == value), "{value}");
        }
    }

    #[test]
    fn quantiles_of_a_uniform_distribution() {
        let histogram = histogram((1..=1_000_000).map(|us| us * 1000));
        for (per_mille, exact) in [(500, 500_000_000_u64), (990, 990_000_000), (999, 999_000_000)] {
            let quantile = histogram.quantile(per_mille).unwrap();
            assert!(quantile >= exact && quantile - exact <= exact / 128, "{quantile}");
        }
        assert_eq!(histogram.quantile(1000), Some(1_000_000_000));
    }

    #[test]
    fn values_beyond_the_range_keep_the_maximum_exact() {
        let histogram = histogram([5, u64::MAX]);
        assert_eq!(histogram.max(), u64::MAX);
        assert_eq!(histogram.quantile(1000), Some((1 << VALUE_BITS) - 1));
    }

    #[test]
    fn nothing_has_no_quantiles() {
        assert_eq!(histogram([]).quantile(500), None);
    }
}
