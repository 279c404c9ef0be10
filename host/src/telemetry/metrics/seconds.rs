//! A histogram of durations with separate counts for each thread. It is used for every message, and the library's
//! histogram would take a lock each time.

use crate::sync::sharded::Sharded;
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};
use std::{
    array, fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// The upper bounds of the buckets in nanoseconds, from half a microsecond to the longest deadline of a call.
const BOUNDS: [u64; 15] = [
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    20_000_000,
    100_000_000,
    500_000_000,
    2_000_000_000,
    10_000_000_000,
];

/// A histogram of durations, reported in seconds.
#[derive(Clone, Debug, Default)]
pub struct Seconds(Arc<Sharded<Share>>);

#[derive(Debug, Default)]
struct Share {
    sum: AtomicU64,
    /// One count for each bound, and one for the durations above the last bound.
    counts: [AtomicU64; BOUNDS.len() + 1],
}

impl Seconds {
    /// Records a duration in nanoseconds.
    pub fn observe(&self, nanos: u64) {
        let bucket = BOUNDS.iter().position(|bound| nanos <= *bound).unwrap_or(BOUNDS.len());
        let share = self.0.own();
        share.counts[bucket].fetch_add(1, Ordering::Relaxed);
        share.sum.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl TypedMetric for Seconds {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Seconds {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        let all = |of: &dyn Fn(&Share) -> &AtomicU64| -> u64 {
            self.0.into_iter().map(|share| of(share).load(Ordering::Relaxed)).sum()
        };
        let counts: [u64; BOUNDS.len() + 1] = array::from_fn(|bucket| all(&|share| &share.counts[bucket]));
        let bounds = BOUNDS.iter().map(|bound| Duration::from_nanos(*bound).as_secs_f64()).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(counts).collect();
        let sum = Duration::from_nanos(all(&|share| &share.sum)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::{encoding::text, registry::Registry};

    #[test]
    fn durations_fall_into_their_buckets() {
        let (mut registry, seconds) = (Registry::default(), Seconds::default());
        registry.register("x", "x", seconds.clone());
        for micros in [0, 1, 2, 1000, 10_000_000] {
            seconds.observe(micros * 1000);
        }
        let mut out = String::new();
        text::encode(&mut out, &registry).unwrap();
        for line in [
            "x_sum 10.001003",
            "x_count 5",
            "x_bucket{le=\"5e-7\"} 1",
            "x_bucket{le=\"0.000001\"} 2",
            "x_bucket{le=\"0.001\"} 4",
            "x_bucket{le=\"+Inf\"} 5",
        ] {
            assert!(out.lines().any(|found| found == line), "{line}: {out}");
        }
    }
}
