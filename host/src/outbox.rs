//! A session's send queue: many senders, one receiver, bounded in messages and in bytes.
//!
//! Not a channel of tokio's: a push gets its number in the same step in which it is queued or dropped, so that a client sees by
//! a gap in the numbers that something was dropped; and the queue of an idle session holds no memory.

use crate::packet::{HEADER_LEN, Header};
use bytes::{Bytes, BytesMut};
use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// How often at most a session's full queue is logged.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

const OVERFLOW: &str = "send_queue_full";

/// The bounds of a send queue, and what happens at them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages that may wait.
    pub messages: usize,
    /// Bytes that may wait, headers included.
    pub bytes: usize,
    /// Close the session instead of dropping the message.
    pub close_when_full: bool,
}

/// A packet on its way out. The payload may be shared by many receivers.
#[derive(Debug)]
pub struct Outgoing {
    /// The packet's header.
    pub header: Header,
    /// What follows it.
    pub payload: Bytes,
}

impl Outgoing {
    /// The packet's bytes.
    #[must_use]
    pub fn packet(&self) -> Bytes {
        let mut packet = BytesMut::with_capacity(HEADER_LEN + self.payload.len());
        packet.extend_from_slice(&self.header.encode());
        packet.extend_from_slice(&self.payload);
        packet.freeze()
    }
}

/// Why a session is being closed, in the terms of RFC 6455.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The close code.
    pub code: u16,
    /// At most 123 bytes.
    pub reason: String,
    /// The label of `gateway_disconnections_total`.
    pub cause: &'static str,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It waits in the queue.
    Queued,
    /// The queue was full: it is gone. `warn` is set once per session and interval.
    Full {
        /// Log it now.
        warn: bool,
    },
    /// The session is about to end: it is gone.
    Closed,
}

/// The send queue of one session.
#[derive(Debug)]
pub struct Outbox {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: Vec<Outgoing>,
    bytes: usize,
    pushes: u32,
    closing: Option<Closing>,
    receiver: Option<Waker>,
    /// The receiver will look again by itself.
    looks: bool,
    warned: Option<Instant>,
}

impl Outbox {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    /// Queues a reply.
    pub fn reply(&self, header: Header, payload: Bytes) -> Outcome {
        self.state().push(self.limits, header, payload)
    }

    /// Queues a push under the session's next delivery number, which is spent even where the queue is full.
    pub fn push(&self, route: u8, payload: Bytes) -> Outcome {
        let mut state = self.state();
        state.pushes = state.pushes.wrapping_add(1);
        let header = Header::push(route, state.pushes);
        state.push(self.limits, header, payload)
    }

    /// Lets the session end once what is queued has been sent. The first call decides the code.
    pub fn close(&self, closing: Closing) {
        let mut state = self.state();
        state.closing.get_or_insert(closing);
        state.wake();
    }

    /// Moves what is queued to the end of `batch`; ready once there is something, or once the session is to end.
    pub fn poll_drain(&self, cx: &mut Context<'_>, batch: &mut Vec<Outgoing>) -> Poll<Option<Closing>> {
        let mut state = self.state();
        if state.queue.is_empty() && state.closing.is_none() {
            state.wait(cx);
            return Poll::Pending;
        }
        state.looks = true;
        state.bytes = 0;
        if batch.is_empty() {
            mem::swap(batch, &mut state.queue);
        } else {
            batch.append(&mut state.queue);
        }
        Poll::Ready(state.closing.clone())
    }

    /// To be called before the receiver itself may queue: what comes is seen by the drain that follows, so nobody has to be woken up.
    pub fn attend(&self) {
        self.state().looks = true;
    }

    /// Ready once the session is to end because its queue is full: waiting for the queue to empty would be in vain.
    pub fn poll_overflow(&self, cx: &mut Context<'_>) -> Poll<Closing> {
        let mut state = self.state();
        if let Some(closing) = state.closing.as_ref().filter(|closing| closing.cause == OVERFLOW) {
            return Poll::Ready(closing.clone());
        }
        state.wait(cx);
        Poll::Pending
    }

    /// The bytes that wait.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.state().bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code under the lock panics half-way through a change, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, limits: Limits, header: Header, payload: Bytes) -> Outcome {
        if self.closing.is_some() {
            return Outcome::Closed;
        }
        let len = HEADER_LEN + payload.len();
        if self.queue.len() >= limits.messages || self.bytes + len > limits.bytes {
            if limits.close_when_full {
                let reason = "too slow: the send queue is full".to_owned();
                self.closing = Some(Closing { code: 1013, reason, cause: OVERFLOW });
                self.wake();
            }
            return Outcome::Full { warn: self.may_warn() };
        }
        self.bytes += len;
        self.queue.push(Outgoing { header, payload });
        self.wake();
        Outcome::Queued
    }

    fn may_warn(&mut self) -> bool {
        let due = self.warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL);
        if due {
            self.warned = Some(Instant::now());
        }
        due
    }

    /// The receiver is to be woken up, once, when something changes.
    fn wait(&mut self, cx: &Context<'_>) {
        self.looks = false;
        match &mut self.receiver {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    fn wake(&mut self) {
        if !self.looks
            && let Some(waker) = &self.receiver
        {
            self.looks = true;
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { messages: 2, bytes: 100, close_when_full: false };

    #[track_caller]
    fn drained(outbox: &Outbox) -> (Vec<u32>, Option<u16>) {
        let mut batch = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        match outbox.poll_drain(&mut cx, &mut batch) {
            Poll::Ready(closing) => {
                (batch.iter().map(|out| out.header.seq).collect(), closing.map(|closing| closing.code))
            }
            Poll::Pending => (Vec::new(), None),
        }
    }

    #[test]
    fn a_full_queue_drops_warns_once_and_leaves_a_gap_in_the_numbers() {
        let outbox = Outbox::new(LIMITS);
        let push = || outbox.push(1, Bytes::from_static(b"x"));
        assert_eq!([push(), push()], [Outcome::Queued; 2]);
        assert_eq!(push(), Outcome::Full { warn: true });
        assert_eq!(push(), Outcome::Full { warn: false });
        assert_eq!(drained(&outbox), (vec![1, 2], None));
        push();
        assert_eq!(drained(&outbox), (vec![5], None));
    }

    #[test]
    fn bytes_are_bounded_as_well() {
        let outbox = Outbox::new(LIMITS);
        assert_eq!(outbox.push(1, Bytes::from(vec![0; 92])), Outcome::Queued);
        assert_eq!(outbox.queued_bytes(), 100);
        assert_eq!(outbox.push(1, Bytes::new()), Outcome::Full { warn: true });
        assert_eq!(drained(&outbox), (vec![1], None));
        assert_eq!(outbox.push(1, Bytes::from(vec![0; 93])), Outcome::Full { warn: false });
    }

    #[test]
    fn closing_lets_the_queue_out_and_nothing_in() {
        let outbox = Outbox::new(LIMITS);
        outbox.push(1, Bytes::new());
        let closing = |code| Closing { code, reason: String::new(), cause: "test" };
        outbox.close(closing(1001));
        outbox.close(closing(1013));
        assert_eq!(outbox.push(1, Bytes::new()), Outcome::Closed);
        assert_eq!(drained(&outbox), (vec![1], Some(1001)));
    }

    #[test]
    fn a_full_queue_closes_where_that_is_asked_for() {
        let outbox = Outbox::new(Limits { messages: 0, close_when_full: true, ..LIMITS });
        assert_eq!(outbox.push(1, Bytes::new()), Outcome::Full { warn: true });
        assert_eq!(drained(&outbox), (Vec::new(), Some(1013)));
    }
}
