//! What one client has heard of numbered deliveries: they come in order and once, and whoever misses some is told of a gap.

use chat_proto::chat::MessageBroadcast;
use gateway_tests::Packet;
use prost::Message;
use std::collections::BTreeMap;

/// The deliveries, gaps and refusals that a client has received.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The numbers of the deliveries.
    pub(super) numbers: Vec<i64>,
    /// The number of gaps that the client was told of.
    pub(super) gaps: usize,
    /// The texts of the refusals with status 5, by the seq of the packet.
    pub(super) refusals: BTreeMap<u32, String>,
    seq: u32,
}

impl Heard {
    /// Records a packet. Asserts that deliveries are in order, and that none was dropped on the way to the client.
    ///
    /// Returns the number of the delivery, if it is one.
    pub(super) fn add(&mut self, packet: &Packet) -> Option<i64> {
        if packet.gap().is_some() {
            self.gaps += 1;
            return None;
        }
        if packet.flags & 1 == 1 {
            if packet.status != 0 {
                assert_eq!(packet.status, 5, "{packet:?}");
                self.refusals.insert(packet.seq, packet.text().to_owned());
            }
            return None;
        }
        self.seq += 1;
        assert_eq!(packet.seq, self.seq, "the send queue has dropped a delivery");
        let number = MessageBroadcast::decode(&packet.payload[..]).unwrap().message_id;
        let last = self.numbers.last().copied().unwrap_or(0);
        assert!(number > last, "{number} after {last}: a delivery is double or out of order");
        self.numbers.push(number);
        Some(number)
    }

    /// Returns how many of the deliveries from 1 to `last` have not arrived.
    pub(super) fn missing(&self, last: i64) -> usize {
        usize::try_from(last).unwrap() - self.numbers.iter().filter(|number| **number <= last).count()
    }

    /// Asserts that the client was told of a gap if one of the deliveries from 1 to `last` has not arrived.
    pub(super) fn assert_told(&self, user: i32, last: i64) {
        let missing = self.missing(last);
        assert!(missing == 0 || self.gaps > 0, "user {user} has lost {missing} of {last} messages and was not told");
    }
}
