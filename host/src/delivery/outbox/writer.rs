//! The sending side of a connection, which the session's task lends to the outbox while the task waits.
//!
//! So a thread that queues messages for many sessions writes them itself, and no task has to be woken up for each of
//! them. Only one of the two has the sending side, so their bytes never mix.

use super::queue::Outgoing;
use std::cell::RefCell;
use tokio::net::tcp::OwnedWriteHalf;

/// The capacity in bytes that the buffer of a thread keeps.
const MAX_KEPT_BYTES: usize = 64 << 10;

thread_local! {
    /// The buffer in which all outboxes of this thread put frames together.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The sending side of a connection.
#[derive(Debug)]
pub struct Writer {
    write: OwnedWriteHalf,
    /// The bytes that the connection has not taken.
    unwritten: Box<[u8]>,
}

impl Writer {
    /// Returns the sending side of a connection that has taken everything so far.
    #[must_use]
    pub fn new(write: OwnedWriteHalf) -> Self {
        Self { write, unwritten: Box::default() }
    }

    /// Returns the sending side, and the bytes that are to be written next.
    #[must_use]
    pub fn into_parts(self) -> (OwnedWriteHalf, Vec<u8>) {
        (self.write, self.unwritten.into_vec())
    }

    pub(super) fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Writes packets, as far as the connection takes their bytes at once. The rest is kept. An error of the connection
    /// is left to the session's task, which gets it at its next write.
    pub(super) fn write<'a>(&mut self, packets: impl IntoIterator<Item = &'a Outgoing>) {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            packets.into_iter().for_each(|packet| packet.put_frame(scratch));
            let written = self.write.try_write(scratch).unwrap_or(0);
            self.unwritten = scratch[written..].into();
            if scratch.capacity() > MAX_KEPT_BYTES {
                *scratch = Vec::new();
            }
        });
    }
}
