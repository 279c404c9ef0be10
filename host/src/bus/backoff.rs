//! Growing pauses between attempts, with jitter, so that a thousand gateways do not reconnect in step.

use rand::Rng;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause. It is short, so that a Redis which is back within the grace period of publishes is found in time.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// A connection that lasted so long was good, and the next pauses begin small again.
const STABLE: Duration = Duration::from_secs(5);

/// No pause before the first attempt, then doubling pauses from 100 ms to 500 ms, each shortened by up to a half at random.
///
/// A connection that was made is no reason to begin anew: a server may accept, and break off at once, for ever.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// The pause before the next attempt.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.next = (self.next * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
        pause
    }

    /// To be called when a connection has ended, with how long it lasted.
    pub(super) fn ended_after(&mut self, lasted: Duration) {
        if lasted >= STABLE {
            self.next = FIRST_PAUSE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is_about(pause: Duration, longest: Duration) {
        assert!(pause >= longest / 2 && pause <= longest, "{pause:?}");
    }

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew_after_a_connection_that_lasted() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.pause(), Duration::ZERO);
        is_about(backoff.pause(), FIRST_PAUSE);
        is_about(backoff.pause(), FIRST_PAUSE * 2);
        for _ in 0..20 {
            backoff.ended_after(STABLE / 2);
            backoff.pause();
        }
        is_about(backoff.pause(), MAX_PAUSE);
        backoff.ended_after(STABLE);
        is_about(backoff.pause(), FIRST_PAUSE);
    }
}
