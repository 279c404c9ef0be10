//! A session's send queue: many senders, one receiver, bounded in messages and in bytes.
//!
//! Not a channel of tokio's: a push gets its number in the same step in which it is queued or dropped, so that a client sees by
//! a gap in the numbers that something was dropped; and the queue of an idle session holds no memory.

use crate::{
    packet::{HEADER_LEN, Header},
    sync::wakeup::Wakeup,
};
use bytes::{Bytes, BytesMut};
use std::{
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
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
    /// Those that wait. Written under the lock.
    bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    queue: Vec<Outgoing>,
    pushes: u32,
    closing: Option<Closing>,
    receiver: Wakeup,
    warned: Option<Instant>,
}

impl Outbox {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default(), bytes: AtomicUsize::new(0) }
    }

    /// Queues a reply.
    pub fn reply(&self, header: Header, payload: Bytes) -> Outcome {
        self.queue(&mut self.state(), header, payload)
    }

    /// Queues a push under the session's next delivery number, which is spent even where the queue is full.
    pub fn push(&self, route: u8, payload: Bytes) -> Outcome {
        let mut state = self.state();
        state.pushes = state.pushes.wrapping_add(1);
        let header = Header::push(route, state.pushes);
        self.queue(&mut state, header, payload)
    }

    /// Lets the session end once what is queued has been sent. The first call decides the code.
    pub fn close(&self, closing: Closing) {
        let mut state = self.state();
        state.closing.get_or_insert(closing);
        state.receiver.wake();
    }

    /// Moves what is queued to the end of `batch`; ready once there is something, or once the session is to end.
    pub fn poll_drain(&self, cx: &mut Context<'_>, batch: &mut Vec<Outgoing>) -> Poll<Option<Closing>> {
        let mut state = self.state();
        if state.queue.is_empty() && state.closing.is_none() {
            state.receiver.wait(cx);
            return Poll::Pending;
        }
        state.receiver.attend();
        Poll::Ready(self.take(&mut state, batch))
    }

    /// The same for what is queued right now, which may be nothing.
    pub fn drain(&self, batch: &mut Vec<Outgoing>) -> Option<Closing> {
        self.take(&mut self.state(), batch)
    }

    fn take(&self, state: &mut State, batch: &mut Vec<Outgoing>) -> Option<Closing> {
        self.bytes.store(0, Ordering::Relaxed);
        if batch.is_empty() {
            mem::swap(batch, &mut state.queue);
        } else {
            batch.append(&mut state.queue);
        }
        state.closing.clone()
    }

    /// To be called before the receiver itself may queue: what comes is seen by the drain that has to follow, so nobody is woken up.
    pub fn attend(&self) {
        self.state().receiver.attend();
    }

    /// Ready once the session is to end because its queue is full: waiting for the queue to empty would be in vain.
    pub fn poll_overflow(&self, cx: &mut Context<'_>) -> Poll<Closing> {
        let mut state = self.state();
        if let Some(closing) = state.closing.as_ref().filter(|closing| closing.cause == OVERFLOW) {
            return Poll::Ready(closing.clone());
        }
        state.receiver.wait(cx);
        Poll::Pending
    }

    /// The bytes that wait.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn queue(&self, state: &mut State, header: Header, payload: Bytes) -> Outcome {
        if state.closing.is_some() {
            return Outcome::Closed;
        }
        let Limits { messages, bytes, close_when_full } = self.limits;
        let len = self.queued_bytes() + HEADER_LEN + payload.len();
        if state.queue.len() >= messages || len > bytes {
            if close_when_full {
                let reason = "too slow: the send queue is full".to_owned();
                state.closing = Some(Closing { code: 1013, reason, cause: OVERFLOW });
                state.receiver.wake();
            }
            return Outcome::Full { warn: state.may_warn() };
        }
        self.bytes.store(len, Ordering::Relaxed);
        state.queue.push(Outgoing { header, payload });
        state.receiver.wake();
        Outcome::Queued
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code under the lock panics half-way through a change, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_warn(&mut self) -> bool {
        let due = self.warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL);
        if due {
            self.warned = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

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
