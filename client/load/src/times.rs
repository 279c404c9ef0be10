//! The times of messages, from which quantiles are taken.

use hdrhistogram::{CreationError, Histogram};

/// The longest time that is told apart, in nanoseconds: an hour. A longer time counts as an hour.
const MAX_NANOS: u64 = 3_600_000_000_000;

/// The significant decimal digits of a time. A quantile is at most 0.1 % too large.
const DIGITS: u8 = 3;

/// Times in nanoseconds. The range is fixed, so recording a time allocates nothing. Keeping and sorting every time
/// would cost 8 bytes for each message.
pub(crate) struct Times(Histogram<u64>);

impl Times {
    pub(crate) fn new() -> Result<Self, CreationError> {
        Histogram::new_with_bounds(1, MAX_NANOS, DIGITS).map(Self)
    }

    pub(crate) fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    /// The time that this part of all times does not exceed, from 0.0 to 1.0. Returns `None` if there are no times.
    pub(crate) fn quantile(&self, part: f64) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(nanos: impl IntoIterator<Item = u64>) -> Times {
        let mut times = Times::new().unwrap();
        nanos.into_iter().for_each(|nanos| times.record(nanos));
        times
    }

    #[test]
    fn quantiles_of_a_uniform_distribution() {
        let times = times((1..=1_000_000).map(|us| us * 1000));
        for (part, exact) in [(0.5, 500_000_000), (0.99, 990_000_000), (0.999, 999_000_000), (1.0, 1_000_000_000_u64)] {
            let quantile = times.quantile(part).unwrap();
            assert!(quantile >= exact && quantile - exact <= exact / 1000, "{quantile}");
        }
    }

    #[test]
    fn a_time_beyond_the_range_counts_as_the_longest() {
        let longest = times([5, u64::MAX]).quantile(1.0).unwrap();
        assert!((MAX_NANOS..MAX_NANOS / 1000 * 1001).contains(&longest), "{longest}");
    }

    #[test]
    fn no_times_have_no_quantiles() {
        assert_eq!(times([]).quantile(0.5), None);
    }
}
