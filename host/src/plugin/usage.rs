//! What one call of a plugin used.

use super::{instance::Instance, store::Reads};
use std::time::Duration;

/// What one call used.
#[derive(Debug)]
pub struct Usage {
    /// The processor time as measured by the clock's ticks. It is 0 for a call that saw fewer than three ticks.
    pub(super) busy: Duration,
    /// The number of bytes that the host copied into the plugin.
    copied: usize,
    /// What the call has read of the plugin's state.
    pub reads: Reads,
}

impl Usage {
    /// Returns the use of a call before it begins. `copied` is the number of bytes that the host copies into the plugin.
    pub(super) fn of(copied: usize) -> Self {
        Self { busy: Duration::ZERO, copied, reads: Reads::default() }
    }

    /// The processor time above which a call is slow, if no bytes were copied. A policy normally takes microseconds.
    const SLOW: Duration = Duration::from_millis(1);

    /// Returns whether the call was slow. The limit grows with the number of copied bytes.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.busy > Self::SLOW + Instance::allowance(self.copied)
    }
}
