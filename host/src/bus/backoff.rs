//! Growing pauses between attempts, with jitter, so that a thousand gateways do not come back in step.

use rand::Rng;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
/// Short enough that a Redis which is back within the grace of publishes is found in time.
const LONGEST: Duration = Duration::from_millis(500);

/// Doubling pauses from 100 ms to 500 ms, each shortened by up to a half at random.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(FIRST)
    }

    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.0.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.0 = (self.0 * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut backoff = Backoff::new();
        let first = backoff.pause();
        assert!(first >= FIRST / 2 && first <= FIRST, "{first:?}");
        let later = (0..20).map(|_| backoff.pause()).last().unwrap_or_default();
        assert!(later >= LONGEST / 2 && later <= LONGEST, "{later:?}");
    }
}
