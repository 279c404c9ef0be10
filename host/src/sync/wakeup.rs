//! Whom to wake up when something is queued: once, until it has looked.

use std::task::{Context, Waker};

/// The receiver of a queue, under the queue's lock.
#[derive(Debug, Default)]
pub struct Wakeup {
    receiver: Option<Waker>,
    /// It will look by itself.
    looks: bool,
}

impl Wakeup {
    /// The receiver has seen that there is nothing, and waits.
    pub fn wait(&mut self, cx: &Context<'_>) {
        self.looks = false;
        match &mut self.receiver {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// The receiver is at work, and will look again before it waits.
    pub fn attend(&mut self) {
        self.looks = true;
    }

    /// There is something to see.
    pub fn wake(&mut self) {
        if !self.looks
            && let Some(receiver) = &self.receiver
        {
            self.looks = true;
            receiver.wake_by_ref();
        }
    }
}
