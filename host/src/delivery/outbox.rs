//! The send queue of one session: many senders, one receiver, bounded in messages, in bytes and in time.
//!
//! A tokio channel was rejected for two reasons. First, a push must get its number in the same step in which it is
//! queued or dropped. So a gap in the numbers shows the client that a message was dropped. Second, the queue of an idle
//! session must hold no memory.

mod away;
mod client;
mod closing;
mod draining;
mod moving;
mod queue;
mod replay;
#[cfg(test)]
mod tests;
mod writer;

pub use client::{Secret, Unclaimed, is_same};
pub use closing::Closing;
pub use queue::{Keep, Outgoing};
pub use replay::{Moving, Received, ReplayLimits};
pub use writer::Writer;

use crate::sync::wakeup::Wakeup;
use bytes::Bytes;
use client::Client;
use gateway_wire::packet::{HEADER_LEN, Header, ROUTE_CONTROL};
use queue::{Queue, Size};
use replay::Replay;
use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// The bounds of a send queue, and what happens when it is full.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The number of messages that may be queued, including those that are being written.
    pub messages: usize,
    /// The number of bytes that may be queued, including headers and the messages that are being written.
    pub bytes: usize,
    /// Whether the session is closed when a message of [`Keep::Always`] finds no room. The message is dropped in any
    /// case.
    pub close_when_full: bool,
    /// The number of bytes at which a batch is complete. A batch is taken from the queue and written as a whole.
    pub batch_bytes: usize,
    /// The longest time that messages may wait before the session is closed. A longer wait is noticed after at most
    /// twice this time.
    pub max_delay: Duration,
    /// The bounds on the messages that are kept for a client that comes back. If it is `None`, sessions end with their
    /// connections.
    pub replay: Option<ReplayLimits>,
}

#[cfg(test)]
impl Limits {
    /// Returns limits for tests, in which nothing is closed for being slow.
    pub fn of(messages: usize, bytes: usize) -> Self {
        let (close_when_full, max_delay) = (false, Duration::MAX);
        Self { messages, bytes, close_when_full, batch_bytes: bytes, max_delay, replay: None }
    }
}

/// The outcome of queueing a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The message is in the queue.
    Queued,
    /// The push is in the queue, and nobody writes it yet. The caller has to call [`Outbox::flush`] or
    /// [`Outbox::leave_to_receiver`].
    Unannounced,
    /// The push is in the queue, in the place of an older one. That is no loss.
    Replaced,
    /// The message is in the queue, and this number of older pushes were dropped for it.
    Evicted(usize),
    /// The queue is full, and the message is lost.
    Full,
    /// The session has ended or is about to end, and the message is lost.
    Closed,
}

/// The send queue of one session.
#[derive(Debug)]
pub struct Outbox {
    /// All outboxes of the gateway share them.
    limits: Arc<Limits>,
    state: Mutex<State>,
    /// The bytes in the queue, or [`CLOSING`] or [`AWAY`]. It is written under the lock, and the session reads it for each
    /// packet without the lock. So is the next number.
    load: AtomicU32,
    /// The bytes that were ever queued. It wraps around.
    ever_queued: AtomicU32,
}

/// The load of a queue that takes no more messages.
const CLOSING: u32 = u32::MAX;

/// The load of a queue whose client is on its way to another connection.
const AWAY: u32 = u32::MAX - 1;

/// The load of a queue with more bytes than that. No batch has so many.
const MAX_LOAD: u32 = u32::MAX - 2;

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    /// The messages that the receiver took last. They count against the bounds until the receiver asks for more,
    /// because they have been written only then.
    in_flight: Size,
    /// The delivery number of the last push.
    pushes: u32,
    /// Why the session is to end, if it is. The box keeps sessions small.
    closing: Option<Box<Closing>>,
    aborted: bool,
    /// Whether the gateway stops, so that each connection ends as soon as its client can claim the session.
    is_dismissed: bool,
    /// The number of messages that were dropped from the queue when the session was aborted.
    lost: u32,
    /// The messages that the client may need again. The box is made when the first message is written.
    replay: Option<Box<Replay>>,
    /// Whether the client has a connection.
    client: Client,
    receiver: Wakeup,
    /// The sending side of the connection, while the receiver waits.
    writer: Option<Writer>,
}

impl Outbox {
    /// Returns an empty queue.
    #[must_use]
    pub fn new(limits: impl Into<Arc<Limits>>) -> Self {
        let [load, ever_queued] = [0; 2].map(AtomicU32::new);
        Self { limits: limits.into(), state: Mutex::default(), load, ever_queued }
    }

    /// Queues a reply.
    pub fn reply(&self, header: Header, payload: Bytes) -> Outcome {
        self.announce(Outgoing { header, payload, keep: Keep::Always })
    }

    /// Queues a push of the gateway itself. It is outside of the delivery counter, and is dropped like any other message
    /// if the queue is full.
    pub fn control(&self, payload: Bytes) -> Outcome {
        self.reply(Header::push(ROUTE_CONTROL, 0), payload)
    }

    /// Queues a push of the gateway itself that means nothing over another connection.
    pub fn control_here(&self, payload: Bytes) -> Outcome {
        let header = Header::push(ROUTE_CONTROL, 0);
        self.announce(Outgoing { header, payload, keep: Keep::MayDrop })
    }

    /// Queues a message, and wakes the receiver up.
    fn announce(&self, outgoing: Outgoing) -> Outcome {
        let mut state = self.state();
        let outcome = self.queue(&mut state, outgoing);
        state.receiver.wake();
        outcome
    }

    /// Queues a push. It gets the session's next delivery number, which is used up even if the queue is full. If the
    /// push replaces a waiting one, it gets that one's number instead.
    ///
    /// If the outbox has the sending side of the connection, the receiver is not woken up: the caller gets
    /// [`Outcome::Unannounced`], and no other caller does until [`Self::flush`] or
    /// [`Self::leave_to_receiver`].
    pub fn push(&self, route: u8, payload: Bytes, keep: Keep) -> Outcome {
        let mut state = self.state();
        if let Some((index, replaced_len)) = state.queue.replaceable(keep) {
            return self.replace(&mut state, index, replaced_len, route, payload);
        }
        // After the last number comes 1, because 0 means that a push has no number.
        state.pushes = state.pushes.checked_add(1).unwrap_or(1);
        let header = Header::push(route, state.pushes);
        let before = state.queue.size().bytes;
        let outcome = self.queue(&mut state, Outgoing { header, payload, keep });
        if state.writer.is_none() {
            state.receiver.wake();
        } else if outcome == Outcome::Queued && state.receiver.defer() {
            return Outcome::Unannounced;
        } else if before < self.limits.batch_bytes && state.queue.size().bytes >= self.limits.batch_bytes {
            // Waiting for more messages would save no further write.
            state.receiver.recall();
            state.receiver.wake();
        }
        outcome
    }

    /// Ends the session once all queued messages have been sent. The first call decides the close code.
    pub fn close(&self, closing: Closing) {
        self.close_first(closing);
    }

    /// Does the same as [`Self::close`]. Returns whether this was the first call.
    pub fn close_first(&self, closing: Closing) -> bool {
        let mut state = self.state();
        let is_first = state.closing.is_none();
        self.begin_closing(&mut state, closing);
        state.receiver.wake();
        is_first
    }

    /// Returns the number of messages that are queued or being written, and their bytes with headers.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let state = self.state();
        let (queued, in_flight) = (state.queue.size(), state.in_flight);
        (queued.messages + in_flight.messages, queued.bytes + in_flight.bytes)
    }

    /// Ends the session at once, even during a write. The queued messages are lost.
    pub fn abort(&self, closing: Closing) {
        let mut state = self.state();
        self.begin_aborting(&mut state, closing);
        state.receiver.wake();
    }

    /// Closes the queue: later messages get [`Outcome::Closed`]. Returns the number of messages that were lost in
    /// the queue.
    pub fn end(&self) -> usize {
        let mut state = self.state();
        self.begin_aborting(&mut state, Closing { code: 1000, reason: String::new(), cause: "closed" });
        state.replay = None;
        state.writer = None;
        state.client = Client::Ended;
        mem::take(&mut state.lost) as usize
    }

    /// Returns the bytes that wait with their headers, or `None` if no further packet is to be served: the session is
    /// about to end, or to change its connection.
    #[must_use]
    pub fn queued(&self) -> Option<usize> {
        let load = self.load.load(Ordering::Relaxed);
        (load < AWAY).then_some(load as usize)
    }

    /// Returns the bytes that were ever queued, with their headers. The number wraps around.
    #[must_use]
    pub fn ever_queued(&self) -> u32 {
        self.ever_queued.load(Ordering::Relaxed)
    }

    /// Returns whether the session has ended or is about to end.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.load.load(Ordering::Relaxed) == CLOSING
    }

    fn queue(&self, state: &mut State, outgoing: Outgoing) -> Outcome {
        if state.closing.is_some() {
            return Outcome::Closed;
        }
        let mut outcome = Outcome::Queued;
        let excess = self.excess(state, outgoing.packet_len());
        if excess != Size::default() {
            if outgoing.keep != Keep::Always {
                return Outcome::Full;
            }
            match state.queue.evict(excess) {
                Some(evicted) => outcome = Outcome::Evicted(evicted),
                // A reply has room all the same, because without it the client would not know what has become of its
                // packet. Few wait: the session reads no further packets until they are written.
                None if outgoing.is_reply() && !state.client.is_away() => {}
                None => {
                    if self.limits.close_when_full || state.client.is_away() {
                        // A client that comes back gets all that it missed, or a new session.
                        let is_away = state.client.is_away();
                        let closing = if is_away { Closing::replay_full() } else { Closing::queue_full() };
                        self.begin_aborting(state, closing);
                        state.receiver.wake();
                    }
                    return Outcome::Full;
                }
            }
        }
        self.count_queued(outgoing.packet_len());
        state.queue.push(outgoing);
        self.store_load(state);
        outcome
    }

    fn count_queued(&self, bytes: usize) {
        let before = self.ever_queued.load(Ordering::Relaxed);
        self.ever_queued.store(before.wrapping_add(bytes as u32), Ordering::Relaxed);
    }

    /// Returns by how much the bounds would be exceeded with one more message of this length.
    fn excess(&self, state: &State, len: usize) -> Size {
        let (queued, in_flight, max) = (state.queue.size(), state.in_flight, self.max(state));
        Size {
            messages: (queued.messages + in_flight.messages + 1).saturating_sub(max.messages),
            bytes: (queued.bytes + in_flight.bytes + len).saturating_sub(max.bytes),
        }
    }

    /// Returns how much may be queued now.
    fn max(&self, state: &State) -> Size {
        let mut max = Size { messages: self.limits.messages, bytes: self.limits.bytes };
        if let (Some(limits), Some(replay)) = (self.limits.replay.map(Size::from), &state.replay) {
            if state.client.is_away() && !state.client.is_about_to_return() {
                return limits;
            }
            if replay.is_catching_up {
                max.messages += limits.messages;
                max.bytes += limits.bytes;
            }
        }
        max
    }

    /// Puts a push in the place of a waiting one. If there are too many bytes for that, the new push is dropped. So is
    /// the old one, because a client that misses the newest value has to see a gap at the next push and no older value.
    fn replace(&self, state: &mut State, index: usize, replaced_len: usize, route: u8, payload: Bytes) -> Outcome {
        if state.closing.is_some() {
            return Outcome::Closed;
        }
        let bytes = state.queue.size().bytes - replaced_len + HEADER_LEN + payload.len();
        let fits = bytes + state.in_flight.bytes <= self.max(state).bytes;
        if fits {
            self.count_queued(HEADER_LEN + payload.len());
            state.queue.replace(index, route, payload);
        } else {
            state.queue.remove(index);
        }
        self.store_load(state);
        if fits { Outcome::Replaced } else { Outcome::Full }
    }

    fn begin_closing(&self, state: &mut State, closing: Closing) {
        state.closing.get_or_insert_with(|| Box::new(closing));
        self.store_load(state);
    }

    fn begin_aborting(&self, state: &mut State, closing: Closing) {
        state.aborted = true;
        state.lost += u32::try_from(state.queue.clear()).unwrap_or(u32::MAX);
        self.begin_closing(state, closing);
    }

    fn store_load(&self, state: &mut State) {
        let load = match state.closing {
            Some(_) => CLOSING,
            None if state.client.is_away() => {
                self.keep_place(state);
                AWAY
            }
            None => u32::try_from(state.queue.size().bytes).unwrap_or(u32::MAX).min(MAX_LOAD),
        };
        self.load.store(load, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code under the lock panics in the middle of a change, so a poisoned state is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
