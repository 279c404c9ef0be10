//! The wake-up of a queue's receiver, at most once until the receiver has looked at the queue again.

use std::{
    mem,
    task::{Context, Waker},
};

/// The waker of a queue's receiver, protected by the queue's lock.
#[derive(Debug, Default)]
pub struct Wakeup {
    receiver: Option<Waker>,
    /// Whether the receiver will look at the queue without being woken up.
    will_look: bool,
}

impl Wakeup {
    /// Records that the receiver found the queue empty and waits.
    pub fn wait(&mut self, cx: &Context<'_>) {
        self.will_look = false;
        match &mut self.receiver {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// Records that the receiver is at work and will look at the queue again before it waits.
    pub fn announce_drain(&mut self) {
        self.will_look = true;
    }

    /// Wakes the receiver up, because something was queued. Does nothing if the receiver will look at the queue anyway.
    pub fn wake(&mut self) {
        if self.defer()
            && let Some(receiver) = &self.receiver
        {
            receiver.wake_by_ref();
        }
    }

    /// Does the same later: until [`Self::recall`], nothing wakes the receiver up. Returns false if the receiver will look
    /// at the queue anyway.
    pub fn defer(&mut self) -> bool {
        !mem::replace(&mut self.will_look, true) && self.receiver.is_some()
    }

    /// Ends what [`Self::defer`] began.
    pub fn recall(&mut self) {
        self.will_look = false;
    }
}
