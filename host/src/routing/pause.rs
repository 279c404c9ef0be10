//! The pause in which a plugin's messages are decided on one by one, because early decisions are of no use or slow.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of a plugin's messages that are not decided on early after an early decision was in vain or slow.
const PAUSE: usize = 1024;

/// How many messages of a plugin are not decided on early any more.
#[derive(Default)]
pub struct Pause(AtomicUsize);

impl Pause {
    /// Begins a pause, because an early decision was in vain or slow.
    pub(super) fn begin(&self) {
        self.0.store(PAUSE, Ordering::Relaxed);
    }

    /// Returns whether messages may be decided on early.
    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Counts a message whose turn it is.
    pub(super) fn pass(&self) {
        if let left @ 1.. = self.0.load(Ordering::Relaxed) {
            self.0.store(left - 1, Ordering::Relaxed);
        }
    }
}
