//! What one call of a plugin used.

use super::{limits::allowance, store::Reads};
use crate::traces::OpenSpan;
use std::time::Duration;

/// What one call used.
#[derive(Debug, Default)]
pub struct Usage {
    /// Whether the call was slow for the number of bytes that the host copied into the plugin.
    pub is_slow: bool,
    /// Whether the call has read anything: state, or attributes of sessions.
    pub has_read: bool,
    /// What the call has read of the plugin's state.
    pub reads: Reads,
    /// The time that the call took, in nanoseconds.
    pub elapsed_ns: u64,
    /// The span of the call, if it is recorded.
    pub trace: Option<Box<OpenSpan>>,
    /// Whether the call was muted, and the plugin wanted to log something.
    pub wanted_to_log: bool,
}

/// The processor time above which a call is slow, if no bytes were copied. A policy normally takes microseconds.
const SLOW: Duration = Duration::from_millis(1);

impl Usage {
    /// Returns the use of a call. `busy` is its processor time as measured by the clock's ticks, which is 0 for a call
    /// that saw fewer than three ticks. `copied` is the number of bytes that the host copied into the plugin.
    pub(super) fn new(busy: Duration, copied: usize, reads: Reads) -> Self {
        Self { is_slow: !busy.is_zero() && busy > SLOW + allowance(copied), reads, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_may_take_longer_if_the_host_copied_more_for_it() {
        let is_slow = |ms, copied| Usage::new(Duration::from_millis(ms), copied, Reads::default()).is_slow;
        assert!(!is_slow(1, 0) && is_slow(2, 0));
        // 1 ms, and 9 µs for each of 1024 KiB.
        assert!(is_slow(5, 0) && !is_slow(5, 1 << 20));
        assert!(!is_slow(10, 1 << 20) && is_slow(11, 1 << 20));
        assert!(!is_slow(0, 0), "a call that saw too few ticks");
    }
}
