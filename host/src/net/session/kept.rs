//! What a session's task keeps from one connection to the next.

use crate::{
    delivery::limits::Rates,
    net::meter::{Meter, Verdict},
    net::receiver::Message,
    net::socket::Error,
    routing::gateway::Offloaded,
};
use bytes::Bytes;
use gateway_wire::packet::{self, HEADER_LEN, Header};

/// What a session's task keeps from one connection to the next.
#[derive(Default)]
pub(super) struct Kept {
    /// The limits on the session's packets, if there are any.
    meter: Option<Box<Meter>>,
    /// The packet that the offload thread still served when the connection ended.
    pub(super) offloaded: Option<Offloaded>,
}

impl Kept {
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
