//! What becomes of publishes that cannot be passed on at present.

use std::time::Duration;
use tokio::time::Instant;

/// How long publishes wait while they cannot be passed on. After that they are refused.
const GRACE: Duration = Duration::from_secs(5);

/// What becomes of publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// They are passed on.
    PassOn,
    /// They wait for the masters, or for the readers of streams.
    Wait,
    /// They are refused, because they would have to wait for too long.
    Refuse,
}

/// The time for which publishes wait.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// When publishes are refused, if they cannot be passed on at present.
    pub(super) ends: Option<Instant>,
}

impl Patience {
    /// Returns what becomes of publishes now.
    pub(super) fn way(&mut self, can_publish: bool, is_closed: bool) -> Way {
        if can_publish {
            self.ends = None;
            return Way::PassOn;
        }
        let now = Instant::now();
        let ends = *self.ends.get_or_insert(now + GRACE);
        if is_closed || now >= ends { Way::Refuse } else { Way::Wait }
    }
}
