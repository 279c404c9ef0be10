//! Growing pauses between attempts to connect. Jitter prevents a thousand gateways from reconnecting at the same
//! moment.

use rand::Rng;
use std::time::Duration;

/// The pause before the second attempt, and before the first attempt after a connection that lasted.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause. It is short, so that a Redis that returns within the grace period of publishes is found in time.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// How long a connection must last to reset the pauses.
const STABLE: Duration = Duration::from_secs(5);

/// The pauses of one connection. There is no pause before the first attempt. The following pauses double from 100 ms to
/// 500 ms, and each is shortened at random by up to a half.
///
/// A successful connection alone does not reset the pauses, because a server might accept and close connections
/// forever.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// Returns the pause before the next attempt.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.next = (self.next * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
        pause
    }

    /// Records that a connection has ended, and how long it lasted.
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
