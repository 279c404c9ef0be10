//! What a session's task keeps from one connection to the next.

use crate::{
    delivery::limits::Rates,
    delivery::outbox::{Outbox, Outgoing},
    net::meter::{Meter, Verdict},
    net::receiver::Message,
    net::socket::Error,
    routing::gateway::Offloaded,
};
use bytes::Bytes;
use gateway_wire::packet::{self, HEADER_LEN, Header};
use std::collections::VecDeque;

/// What a session's task keeps from one connection to the next.
#[derive(Default)]
pub(super) struct Kept {
    /// The limits on the session's packets, if there are any.
    meter: Option<Box<Meter>>,
    /// The packet that the offload thread still served when the connection ended.
    pub(super) offloaded: Option<Offloaded>,
    /// The bytes that have to be written before packets are read again, if a full batch waits. The client's packets have
    /// caused so many, such as their replies.
    owed: usize,
}

impl Kept {
    /// Returns whether nothing is to be read from the client now. That is backpressure: first as much is written as the
    /// client's own packets have caused. What others send to the client does not keep its packets from being read.
    pub(super) fn is_held_back(&mut self, outbox: &Outbox, batch_bytes: usize) -> bool {
        let Some(queued) = outbox.queued() else { return true };
        if queued < batch_bytes {
            self.owed = 0;
        }
        self.owed > 0
    }

    /// Counts what packets of the client have caused since `before`. What others have sent in the same time counts too:
    /// that is little, unless a slow plugin served a packet meanwhile.
    pub(super) fn count_caused(&mut self, before: u32, outbox: &Outbox) {
        self.owed += caused(before, outbox);
    }

    /// Counts bytes that are being written.
    pub(super) fn count_written(&mut self, batch: &VecDeque<Outgoing>) {
        if self.owed > 0 {
            let written: usize = batch.iter().map(Outgoing::packet_len).sum();
            self.owed = self.owed.saturating_sub(written);
        }
    }

    /// Takes the limits that hold now for the packets that have arrived.
    pub(super) fn begin_metering(&mut self, rates: Rates) {
        match &mut self.meter {
            _ if !rates.is_limited() => self.meter = None,
            Some(meter) => meter.begin(rates),
            none => *none = Some(Box::new(Meter::new(rates))),
        }
    }

    /// Returns whether all of these packets are within the limits of the session.
    pub(super) fn have_room<'a>(&self, packets: impl Iterator<Item = &'a Bytes>) -> bool {
        let Some(meter) = &self.meter else { return true };
        let (packets, bytes) = packets.fold((0, 0), |(packets, bytes), packet| (packets + 1, bytes + packet.len()));
        meter.has_room(packets, bytes)
    }

    /// Counts a packet against the limits of the session. Returns its header if it is over a limit, and whether the
    /// session has to end.
    pub(super) fn count(&mut self, message: &Result<Message, Error>) -> Option<(Header, Verdict)> {
        let bytes = match message {
            Ok(Message::Packet(packet)) => packet.len(),
            Ok(Message::TooLarge { bytes, .. }) => bytes + HEADER_LEN,
            _ => return None,
        };
        let verdict = self.meter.as_mut()?.packet(bytes);
        if verdict == Verdict::Serve {
            return None;
        }
        let header = match message {
            Ok(Message::TooLarge { header, .. }) => *header,
            // A packet that is too short is answered with seq 0.
            Ok(Message::Packet(packet)) => packet::split(packet).map(|(header, _)| header).unwrap_or_default(),
            _ => return None,
        };
        Some((header, verdict))
    }
}

/// Returns how many bytes were queued since the outbox had `before`.
pub(super) fn caused(before: u32, outbox: &Outbox) -> usize {
    outbox.ever_queued().wrapping_sub(before) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::outbox::{Keep, Limits};

    /// The bytes of a full batch.
    const BATCH: usize = 100;

    /// Returns an outbox in which a full batch waits that others have sent.
    fn full() -> Outbox {
        let outbox = Outbox::new(Limits { batch_bytes: BATCH, ..Limits::of(100, 10_000) });
        push(&outbox, 2 * BATCH);
        outbox
    }

    fn push(outbox: &Outbox, bytes: usize) {
        outbox.push(1, vec![0; bytes - HEADER_LEN].into(), Keep::Always);
    }

    #[test]
    fn only_what_the_client_has_caused_keeps_its_packets_from_being_read() {
        let (outbox, mut kept) = (full(), Kept::default());
        assert!(!kept.is_held_back(&outbox, BATCH));
        let before = outbox.ever_queued();
        push(&outbox, 30);
        assert_eq!(caused(before, &outbox), 30);
        kept.count_caused(before, &outbox);
        assert!(kept.is_held_back(&outbox, BATCH));
        // Others send as much as is written.
        let mut batch = VecDeque::new();
        assert!(outbox.drain(&mut batch).is_none());
        kept.count_written(&batch);
        push(&outbox, 2 * BATCH);
        assert!(!kept.is_held_back(&outbox, BATCH));
    }

    #[test]
    fn without_a_full_batch_the_client_is_read() {
        let (outbox, mut kept) = (full(), Kept::default());
        kept.count_caused(0, &outbox);
        assert!(kept.is_held_back(&outbox, BATCH));
        assert!(outbox.drain(&mut VecDeque::new()).is_none());
        assert!(!kept.is_held_back(&outbox, BATCH));
        push(&outbox, 2 * BATCH);
        assert!(!kept.is_held_back(&outbox, BATCH), "what is written does not count any more");
    }
}
