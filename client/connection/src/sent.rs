use std::collections::VecDeque;

use gateway_wire::packet::{HEADER_LEN, Packet};

/// The most packets that are kept to be sent again.
const MAX_PACKETS: usize = 256;

/// The most bytes that are kept to be sent again. The last packet is always kept, and so are all that wait for a
/// connection that lives: it is only slow.
const MAX_BYTES: usize = 64 << 10;

/// The packets of a session that were sent last. They are kept, since the gateway may not have received them. Each has a
/// number, which is its count in the session from 1 on.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    packets: VecDeque<Packet>,
    bytes: usize,
    /// The number of the last packet.
    last: u64,
    /// The number of the last packet that was written to the present connection.
    written: u64,
    /// The number up to which no packet is sent again.
    given_up: u64,
    /// Whether the present connection takes packets.
    is_live: bool,
}

impl Sent {
    /// Adds a packet, which waits to be written.
    pub(crate) fn push(&mut self, packet: Packet) {
        self.bytes += len(&packet);
        self.packets.push_back(packet);
        self.last = self.last.saturating_add(1);
        self.trim();
    }

    /// The next packet to write.
    pub(crate) fn unwritten(&self) -> Option<&Packet> {
        let index = self.written.saturating_sub(self.forgotten());
        self.packets.get(usize::try_from(index).ok()?)
    }

    /// Takes note that the next packet was written.
    pub(crate) fn wrote(&mut self) {
        self.written = self.written.max(self.forgotten()) + 1;
        self.trim();
    }

    /// Takes note of the end of the connection. The packets that still wait count to those that are kept.
    pub(crate) fn end(&mut self) {
        self.is_live = false;
        self.trim();
    }

    /// Decides that the packets that were written so far are never sent again.
    pub(crate) fn give_up(&mut self) {
        self.given_up = self.written;
    }

    /// Goes on after a resume, if the gateway has received the packets up to this number. The later ones wait to be
    /// written again, and are numbered as the gateway counts them. Returns the number of packets that are lost.
    pub(crate) fn resume(&mut self, received: u64) -> u64 {
        let forgotten = self.forgotten();
        let lost = forgotten.max(self.given_up).saturating_sub(received);
        let gone = received.max(self.given_up).saturating_sub(forgotten);
        for _ in 0..gone.min(self.packets.len() as u64) {
            self.pop();
        }
        self.written = received;
        self.last = received.saturating_add(self.packets.len() as u64);
        self.given_up = 0;
        self.is_live = true;
        lost
    }

    /// Begins a new session, which gets none of the packets. Returns the number of those that were not written.
    pub(crate) fn restart(&mut self) -> u64 {
        let lost = self.last.saturating_sub(self.written);
        *self = Self { is_live: true, ..Self::default() };
        lost
    }

    /// The number of packets that are waiting to be written.
    pub(crate) fn waiting(&self) -> u64 {
        self.last - self.written.max(self.forgotten())
    }

    /// The number of the last packet that is no longer kept.
    fn forgotten(&self) -> u64 {
        self.last - self.packets.len() as u64
    }

    /// Forgets the oldest packets if there are too many.
    fn trim(&mut self) {
        while self.packets.len() > MAX_PACKETS || self.bytes > MAX_BYTES && self.packets.len() > 1 {
            // A packet that is forgotten unwritten has a number, but the gateway does not count it. The next welcome tells.
            if self.is_live && self.forgotten() >= self.written {
                return;
            }
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(packet) = self.packets.pop_front() {
            self.bytes -= len(&packet);
        }
    }
}

fn len(packet: &Packet) -> usize {
    HEADER_LEN + packet.payload.len()
}
