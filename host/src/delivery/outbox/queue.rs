//! The messages that wait in an outbox, with the sums that its bounds need.
//!
//! A message is found by a scan. The bound on messages limits the scan, and a queue without droppable pushes is not
//! scanned at all. A map would cost an allocation for each session that is sent something.

use crate::sync::uptime::now_ms;
use bytes::Bytes;
use gateway_wire::{
    packet::{FLAG_REPLACES, HEADER_LEN, Header, ROUTE_CONTROL},
    websocket::{self, Opcode},
};
use std::{collections::VecDeque, mem, num::NonZeroU64, time::Duration};

/// What may happen to a message while it waits to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The message waits.
    Always,
    /// The message is dropped if a message to be kept needs its room.
    MayDrop,
    /// Like [`Self::MayDrop`]. The message also takes the place of a waiting one with the same owner and key.
    Latest {
        /// The id of the owner of the key.
        owner: u32,
        /// The key, which is the owner's choice.
        key: u64,
    },
}

/// A packet to be sent. Several receivers may share its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The packet's header.
    pub header: Header,
    /// The bytes after the header.
    pub payload: Bytes,
    /// What may happen to the packet while it waits.
    pub keep: Keep,
}

impl Outgoing {
    /// Returns the length of the packet in bytes, header included.
    #[must_use]
    pub fn packet_len(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }

    /// Appends the packet to `out`, as one frame.
    pub fn put_frame(&self, out: &mut Vec<u8>) {
        out.reserve(self.packet_len() + websocket::MAX_SERVER_HEAD_BYTES);
        websocket::put_head(Opcode::Binary, self.packet_len(), out);
        out.extend_from_slice(&self.header.encode());
        out.extend_from_slice(&self.payload);
    }

    /// Returns whether the packet is for the client's present connection only.
    pub(super) fn is_for_this_connection(&self) -> bool {
        self.header.route == ROUTE_CONTROL && self.is_droppable()
    }

    /// Returns whether the packet answers one of the client.
    pub(super) fn is_reply(&self) -> bool {
        self.header.is_reply()
    }

    /// Returns the delivery number of a push. Replies and the gateway's own pushes have none.
    pub(super) fn delivery_number(&self) -> Option<u32> {
        (!self.is_reply() && self.header.seq != 0).then_some(self.header.seq)
    }

    fn is_droppable(&self) -> bool {
        self.keep != Keep::Always
    }
}

/// A number of messages, and their bytes with headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// The waiting messages, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    messages: VecDeque<Outgoing>,
    /// Their bytes with headers.
    bytes: usize,
    /// The number of waiting messages that are not [`Keep::Always`].
    pub(super) droppable: usize,
    /// The number of messages that have been taken so far.
    taken: u64,
    delay: Option<Delay>,
}

/// The wait of one message. Only one message is measured at a time, so that queueing a message does not read the clock.
/// If the message is replaced, the wait of its place is measured on.
#[derive(Clone, Copy, Debug)]
struct Delay {
    /// The value of [`Queue::taken`] once this message has been taken. That it is not zero makes an outbox smaller.
    position: NonZeroU64,
    /// A time at which the message was already in the queue.
    since_ms: u64,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(super) fn size(&self) -> Size {
        Size { messages: self.messages.len(), bytes: self.bytes }
    }

    pub(super) fn push(&mut self, outgoing: Outgoing) {
        self.bytes += outgoing.packet_len();
        self.droppable += usize::from(outgoing.is_droppable());
        self.messages.push_back(outgoing);
    }

    /// Returns the index and the length of the waiting message that a message with this `keep` replaces.
    pub(super) fn replaceable(&self, keep: Keep) -> Option<(usize, usize)> {
        if self.droppable == 0 || !matches!(keep, Keep::Latest { .. }) {
            return None;
        }
        let index = self.messages.iter().rposition(|outgoing| outgoing.keep == keep)?;
        Some((index, self.messages.get(index)?.packet_len()))
    }

    /// Gives a waiting push another route and payload. It keeps its place and its delivery number.
    pub(super) fn replace(&mut self, index: usize, route: u8, payload: Bytes) {
        let Some(outgoing) = self.messages.get_mut(index) else { return };
        self.bytes -= outgoing.packet_len();
        outgoing.header = Header { flags: FLAG_REPLACES, ..Header::push(route, outgoing.header.seq) };
        outgoing.payload = payload;
        self.bytes += outgoing.packet_len();
    }

    /// Puts messages that were taken before back in front of those that wait.
    pub(super) fn put_back(&mut self, taken: VecDeque<Outgoing>) {
        let waiting = mem::replace(&mut self.messages, taken);
        for outgoing in &self.messages {
            self.bytes += outgoing.packet_len();
            self.droppable += usize::from(outgoing.is_droppable());
        }
        self.messages.extend(waiting);
        self.delay = None;
    }

    pub(super) fn into_messages(self) -> VecDeque<Outgoing> {
        self.messages
    }

    /// Drops the messages for a connection that is left.
    pub(super) fn leave_connection(&mut self) {
        if self.droppable > 0 {
            self.drop_where(|_, outgoing| outgoing.is_for_this_connection());
        }
    }

    /// Drops one message.
    pub(super) fn remove(&mut self, index: usize) {
        self.drop_where(|at, _| at == index);
    }

    /// Drops the oldest droppable messages until at least this many messages and bytes are gone. Returns the number of
    /// dropped messages. If all droppable messages are not enough, drops none and returns `None`.
    pub(super) fn evict(&mut self, excess: Size) -> Option<usize> {
        if self.droppable == 0 {
            return None;
        }
        let mut freed = Size::default();
        let mut candidates = self.messages.iter().filter(|outgoing| outgoing.is_droppable());
        while freed.messages < excess.messages || freed.bytes < excess.bytes {
            freed.bytes += candidates.next()?.packet_len();
            freed.messages += 1;
        }
        let mut left = freed.messages;
        self.drop_where(|_, outgoing| {
            let is_evicted = left > 0 && outgoing.is_droppable();
            left -= usize::from(is_evicted);
            is_evicted
        });
        Some(freed.messages)
    }

    /// Drops the messages that `is_dropped` chooses by their index and content.
    fn drop_where(&mut self, mut is_dropped: impl FnMut(usize, &Outgoing) -> bool) {
        let Self { messages, bytes, droppable, taken, delay } = self;
        let measured = delay.map_or(0, |delay| delay.position.get().saturating_sub(*taken));
        let (mut index, mut dropped_up_to_measured) = (0, 0);
        messages.retain(|outgoing| {
            let is_dropped = is_dropped(index, outgoing);
            index += 1;
            if is_dropped {
                *bytes -= outgoing.packet_len();
                *droppable -= usize::from(outgoing.is_droppable());
                dropped_up_to_measured += u64::from(index as u64 <= measured);
            }
            !is_dropped
        });
        // If the measured message itself is dropped, the one before it is measured, which has waited for at least as
        // long.
        *delay = delay.and_then(|delay| {
            let position = NonZeroU64::new(delay.position.get() - dropped_up_to_measured)?;
            Some(Delay { position, ..delay })
        });
    }

    /// Moves messages into `batch`, which must be empty, until they have `batch_bytes`. Returns their size.
    pub(super) fn take(&mut self, batch_bytes: usize, batch: &mut VecDeque<Outgoing>) -> Size {
        let before = self.size();
        if before.bytes <= batch_bytes {
            mem::swap(batch, &mut self.messages);
            self.bytes = 0;
            self.droppable = 0;
        } else {
            while before.bytes - self.bytes < batch_bytes
                && let Some(outgoing) = self.messages.pop_front()
            {
                self.bytes -= outgoing.packet_len();
                self.droppable -= usize::from(outgoing.is_droppable());
                batch.push_back(outgoing);
            }
        }
        self.taken += batch.len() as u64;
        Size { messages: batch.len(), bytes: before.bytes - self.bytes }
    }

    /// Drops all messages, and returns their number.
    pub(super) fn clear(&mut self) -> usize {
        self.bytes = 0;
        self.droppable = 0;
        mem::take(&mut self.messages).len()
    }

    /// Returns whether the measured message has waited for too long. Once that message has been taken, the newest
    /// message is measured next.
    pub(super) fn is_overdue(&mut self, max_delay: Duration) -> bool {
        if self.messages.is_empty() {
            self.delay = None;
            return false;
        }
        let now = now_ms();
        let position = NonZeroU64::MIN.saturating_add(self.taken + self.messages.len() as u64 - 1);
        let newest = Delay { position, since_ms: now };
        let measured = self.delay.filter(|delay| delay.position.get() > self.taken).unwrap_or(newest);
        self.delay = Some(measured);
        u128::from(now - measured.since_ms) > max_delay.as_millis()
    }
}
