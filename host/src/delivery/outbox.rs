//! A session's send queue: many senders, one receiver, bounded in messages, in bytes and in time.
//!
//! Not a channel of tokio's: a push gets its number in the same step in which it is queued or dropped, so that a client sees by
//! a gap in the numbers that something was dropped; and the queue of an idle session holds no memory.

#[cfg(test)]
mod tests;

use crate::sync::{uptime::now_ms, wakeup::Wakeup};
use bytes::Bytes;
use gateway_wire::packet::{HEADER_LEN, Header};
use std::{
    collections::VecDeque,
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

/// The bounds of a send queue, and what happens at them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages that may wait, those included that are being written.
    pub messages: usize,
    /// Bytes that may wait, headers and what is being written included.
    pub bytes: usize,
    /// Close the session instead of dropping the message.
    pub close_when_full: bool,
    /// Bytes that are taken from the queue to be written together. A larger message is written alone.
    pub batch_bytes: usize,
    /// A session whose messages wait for longer than this is closed. It takes at most twice as long until that is seen.
    pub max_delay: Duration,
}

/// A packet on its way out. The payload may be shared by many receivers.
#[derive(Debug)]
pub struct Outgoing {
    /// The packet's header.
    pub header: Header,
    /// The bytes after the header.
    pub payload: Bytes,
}

impl Outgoing {
    /// The length of the packet in bytes.
    #[must_use]
    pub fn packet_len(&self) -> usize {
        HEADER_LEN + self.payload.len()
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

impl Closing {
    /// The end of a session whose messages wait for longer than [`Limits::max_delay`].
    #[must_use]
    pub fn send_timeout() -> Self {
        let reason = "too slow: a message waited for longer than send_timeout_s".to_owned();
        Self { code: 1013, reason, cause: "send_timeout" }
    }

    fn queue_full() -> Self {
        Self { code: 1013, reason: "too slow: the send queue is full".to_owned(), cause: "send_queue_full" }
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It waits in the queue.
    Queued,
    /// The queue was full: the message is lost.
    Full,
    /// The session has ended or is about to: the message is lost.
    Closed,
}

/// The send queue of one session.
#[derive(Debug)]
pub struct Outbox {
    limits: Limits,
    state: Mutex<State>,
    /// The bytes in the queue, or [`CLOSING`]. Written under the lock, and read by the session for each packet without it.
    load: AtomicUsize,
}

/// The load of a queue that takes no more messages.
const CLOSING: usize = usize::MAX;

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Outgoing>,
    queued: Size,
    /// What the receiver has taken last. It counts until the receiver asks again, since by then it is written.
    in_flight: Size,
    pushes: u32,
    closing: Option<Closing>,
    aborted: bool,
    /// Messages that were dropped from the queue when the session was aborted.
    lost: usize,
    /// Messages that the receiver has taken so far.
    taken: u64,
    delay: Option<Delay>,
    receiver: Wakeup,
}

#[derive(Clone, Copy, Debug, Default)]
struct Size {
    messages: usize,
    bytes: usize,
}

/// A message whose wait is measured: one at a time, so that a message costs no look at the clock.
#[derive(Clone, Copy, Debug)]
struct Delay {
    /// How many messages will have been taken once this one is.
    position: u64,
    /// A moment at which it was in the queue already.
    since_ms: u64,
}

impl Outbox {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default(), load: AtomicUsize::new(0) }
    }

    /// Queues a reply.
    pub fn reply(&self, header: Header, payload: Bytes) -> Outcome {
        self.queue(&mut self.state(), Outgoing { header, payload })
    }

    /// Queues a push under the session's next delivery number, which is spent even if the queue is full.
    pub fn push(&self, route: u8, payload: Bytes) -> Outcome {
        let mut state = self.state();
        state.pushes = state.pushes.wrapping_add(1);
        let header = Header::push(route, state.pushes);
        self.queue(&mut state, Outgoing { header, payload })
    }

    /// Lets the session end once what is queued has been sent. The first call decides the code.
    pub fn close(&self, closing: Closing) {
        let mut state = self.state();
        self.begin_closing(&mut state, closing);
        state.receiver.wake();
    }

    /// Lets the session end at once, whatever it is doing. What is queued is lost.
    pub fn abort(&self, closing: Closing) {
        let mut state = self.state();
        self.begin_aborting(&mut state, closing);
        state.receiver.wake();
    }

    /// Ends the queue: whatever is queued from now on is [`Outcome::Closed`]. Returns how many messages were lost in it.
    pub fn end(&self) -> usize {
        let mut state = self.state();
        self.begin_aborting(&mut state, Closing { code: 1000, reason: String::new(), cause: "closed" });
        mem::take(&mut state.lost)
    }

    /// Moves the next messages into `batch`, which has to be empty. Ready once there are any, or once the session is to end: all that was
    /// queued before has been taken then.
    pub fn poll_drain(&self, cx: &Context<'_>, batch: &mut VecDeque<Outgoing>) -> Poll<Option<Closing>> {
        let mut state = self.state();
        if state.queue.is_empty() && state.closing.is_none() {
            state.in_flight = Size::default();
            state.receiver.wait(cx);
            return Poll::Pending;
        }
        state.receiver.attend();
        Poll::Ready(self.take(&mut state, batch))
    }

    /// The same for what is queued right now, which may be nothing.
    pub fn drain(&self, batch: &mut VecDeque<Outgoing>) -> Option<Closing> {
        self.take(&mut self.state(), batch)
    }

    fn take(&self, state: &mut State, batch: &mut VecDeque<Outgoing>) -> Option<Closing> {
        state.in_flight = state.queued;
        if state.queued.bytes <= self.limits.batch_bytes {
            mem::swap(batch, &mut state.queue);
            state.queued = Size::default();
        } else {
            while state.in_flight.bytes - state.queued.bytes < self.limits.batch_bytes
                && let Some(outgoing) = state.queue.pop_front()
            {
                state.queued.messages -= 1;
                state.queued.bytes -= outgoing.packet_len();
                batch.push_back(outgoing);
            }
            state.in_flight.messages -= state.queued.messages;
            state.in_flight.bytes -= state.queued.bytes;
        }
        state.taken += batch.len() as u64;
        if state.is_overdue(self.limits.max_delay) {
            self.begin_aborting(state, Closing::send_timeout());
        }
        self.store_load(state);
        if state.queue.is_empty() { state.closing.clone() } else { None }
    }

    /// To be called before the receiver itself may queue: what comes is seen by the drain that has to follow, so nobody is woken up.
    pub fn attend(&self) {
        let mut state = self.state();
        state.in_flight = Size::default();
        state.receiver.attend();
    }

    /// Ready once the session is to end without waiting for its queue to be written.
    pub fn poll_abort(&self, cx: &Context<'_>) -> Poll<Closing> {
        let mut state = self.state();
        if let Some(closing) = state.closing.as_ref().filter(|_| state.aborted) {
            return Poll::Ready(closing.clone());
        }
        state.receiver.wait(cx);
        Poll::Pending
    }

    /// Whether the session has to write before it serves another packet: a batch or more waits, or the session is to end.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.load.load(Ordering::Relaxed) >= self.limits.batch_bytes
    }

    fn queue(&self, state: &mut State, outgoing: Outgoing) -> Outcome {
        if state.closing.is_some() {
            return Outcome::Closed;
        }
        let Limits { messages, bytes, close_when_full, .. } = self.limits;
        let len = outgoing.packet_len();
        let Size { messages: waiting, bytes: waiting_bytes } = state.queued;
        if waiting + state.in_flight.messages >= messages || waiting_bytes + state.in_flight.bytes + len > bytes {
            if close_when_full {
                self.begin_aborting(state, Closing::queue_full());
                state.receiver.wake();
            }
            return Outcome::Full;
        }
        state.queued = Size { messages: waiting + 1, bytes: waiting_bytes + len };
        self.store_load(state);
        state.queue.push_back(outgoing);
        state.receiver.wake();
        Outcome::Queued
    }

    fn begin_closing(&self, state: &mut State, closing: Closing) {
        state.closing.get_or_insert(closing);
        self.store_load(state);
    }

    fn begin_aborting(&self, state: &mut State, closing: Closing) {
        state.aborted = true;
        state.lost += mem::take(&mut state.queue).len();
        state.queued = Size::default();
        self.begin_closing(state, closing);
    }

    fn store_load(&self, state: &State) {
        let load = if state.closing.is_some() { CLOSING } else { state.queued.bytes };
        self.load.store(load, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code under the lock panics half-way through a change, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the message whose wait is measured has waited for too long. Once it is taken, the wait of the last message begins to be measured.
    fn is_overdue(&mut self, max_delay: Duration) -> bool {
        if self.queue.is_empty() {
            self.delay = None;
            return false;
        }
        let now = now_ms();
        let newest = Delay { position: self.taken + self.queue.len() as u64, since_ms: now };
        let measured = self.delay.filter(|delay| delay.position > self.taken).unwrap_or(newest);
        self.delay = Some(measured);
        u128::from(now - measured.since_ms) > max_delay.as_millis()
    }
}
