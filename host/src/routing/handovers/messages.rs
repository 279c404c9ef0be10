//! The messages of a hand-over, in the format of Protocol Buffers. Only gateways read them.

use crate::delivery::{
    holdings::Holding,
    outbox::{Keep, Moving, Outgoing, Received, Secret},
};
use bytes::Bytes;
use gateway_wire::packet::Header;
use prost::Message;
use std::{mem, net::SocketAddr, ops::RangeInclusive};
use uuid::Uuid;

/// The size of a part of a state. It is at least half of what the bus takes in addition to a message. It is small
/// enough that some parts fit into what Redis keeps for a connection that reads slowly (32 MB by default).
const PART_BYTES: RangeInclusive<usize> = 32 << 10..=1 << 20;

/// The maximum number of bytes that Protocol Buffers add to a field: its tag and its length.
const MAX_FIELD_OVERHEAD: usize = 6;

/// A session at another gateway that a client wants to go on with here.
pub struct Wanted {
    /// The gateway that had the session.
    pub gateway: Uuid,
    /// The session.
    pub session: Uuid,
    /// What the client needs to claim it.
    pub secret: Secret,
    /// What the client has received.
    pub received: Received,
    /// Whom the client's token names, if tokens are checked.
    pub checked: Option<Option<i64>>,
    /// The client's address.
    pub remote: SocketAddr,
}

/// A message of a hand-over.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Envelope {
    /// The hand-over, 16 random bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) handover: Vec<u8>,
    #[prost(oneof = "Content", tags = "2, 3, 4, 5, 6")]
    pub(super) content: Option<Content>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Content {
    /// To the old gateway: a client wants to go on with its session at a new one.
    #[prost(message, tag = "2")]
    Want(Want),
    /// To the new gateway: the client gets a new session. To the old gateway: the new one does not go on.
    #[prost(message, tag = "3")]
    Refusal(Refusal),
    /// To the new gateway: what the session is, so that the new one can listen to what it listens to.
    #[prost(message, tag = "4")]
    Offer(Offer),
    /// To both: what the bus passes on before this is for the old gateway, and the rest is for the new one.
    #[prost(message, tag = "5")]
    Mark(Mark),
    /// To the new gateway: the messages of the session, in one part or more.
    #[prost(message, tag = "6")]
    State(State),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Want {
    /// The topic of the new gateway.
    #[prost(string, tag = "1")]
    pub(super) answer: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) session: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) secret: Vec<u8>,
    #[prost(uint32, optional, tag = "4")]
    pub(super) push: Option<u32>,
    #[prost(uint64, optional, tag = "5")]
    pub(super) replies: Option<u64>,
    /// Whether the client's token was checked, and whom it names.
    #[prost(bool, tag = "6")]
    pub(super) is_checked: bool,
    #[prost(int64, optional, tag = "7")]
    pub(super) user: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Refusal {
    /// An outcome of `gateway_resumes_total`.
    #[prost(string, tag = "1")]
    pub(super) why: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Offer {
    #[prost(int64, optional, tag = "1")]
    pub(super) user: Option<i64>,
    #[prost(bool, tag = "2")]
    pub(super) is_anonymous: bool,
    #[prost(message, repeated, tag = "3")]
    pub(super) holdings: Vec<Held>,
    #[prost(uint64, tag = "4")]
    pub(super) replies_lost: u64,
}

/// What the session holds of one plugin.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Held {
    #[prost(string, tag = "1")]
    pub(super) plugin: String,
    #[prost(uint64, tag = "2")]
    pub(super) tag: u64,
    #[prost(message, repeated, tag = "3")]
    pub(super) attributes: Vec<Attribute>,
    #[prost(uint64, repeated, tag = "4")]
    pub(super) groups: Vec<u64>,
    #[prost(string, repeated, tag = "5")]
    pub(super) topics: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Mark {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct State {
    #[prost(uint32, tag = "1")]
    pub(super) pushes: u32,
    #[prost(uint32, tag = "2")]
    pub(super) received_push: u32,
    #[prost(uint64, tag = "3")]
    pub(super) received_replies: u64,
    #[prost(uint64, tag = "4")]
    pub(super) packets: u64,
    #[prost(message, repeated, tag = "5")]
    pub(super) waiting: Vec<Waiting>,
    /// Whether this is a part that has only `waiting`, and another one follows.
    #[prost(bool, tag = "6")]
    pub(super) has_more: bool,
    /// The number of packets of all parts, in the last part. It shows whether a part was lost.
    #[prost(uint64, tag = "7")]
    pub(super) all_waiting: u64,
}

/// A session that waits in Redis.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Stored {
    /// What the client needs to claim it.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) secret: Vec<u8>,
    /// The time for which it was written, in milliseconds.
    #[prost(uint64, tag = "2")]
    pub(super) lives_ms: u64,
    #[prost(message, optional, tag = "3")]
    pub(super) offer: Option<Offer>,
    #[prost(message, optional, tag = "4")]
    pub(super) state: Option<State>,
    /// For how long its gateway had not heard the bus, in milliseconds, if it could not tell the client any more.
    #[prost(uint64, tag = "5")]
    pub(super) blind_ms: u64,
}

/// A packet that waits for the client.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Waiting {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) packet: Bytes,
    #[prost(bool, tag = "2")]
    pub(super) may_drop: bool,
}

impl Want {
    pub(super) fn new(wanted: &Wanted, answer: String) -> Self {
        Self {
            answer,
            session: wanted.session.into_bytes().to_vec(),
            secret: wanted.secret.to_vec(),
            push: wanted.received.push,
            replies: wanted.received.replies,
            is_checked: wanted.checked.is_some(),
            user: wanted.checked.flatten(),
        }
    }
}

impl Held {
    pub(super) fn new(plugin: &str, holding: Holding) -> Self {
        let Holding { owner: _, tag, attributes, groups, topics } = holding;
        let attributes = attributes.into_iter().map(|(name, value)| Attribute { name, value }).collect();
        Self { plugin: plugin.to_owned(), tag, attributes, groups, topics }
    }
}

impl State {
    pub(super) fn new(moving: Moving, packets: u64) -> Self {
        let Moving { pushes, received: (received_push, received_replies), waiting } = moving;
        let packet = |Outgoing { header, payload, keep }: Outgoing| Waiting {
            packet: [&header.encode()[..], &payload].concat().into(),
            may_drop: keep != Keep::Always,
        };
        let waiting: Vec<_> = waiting.into_iter().map(packet).collect();
        let all_waiting = waiting.len() as u64;
        Self { pushes, received_push, received_replies, packets, waiting, has_more: false, all_waiting }
    }

    /// Splits the state into parts that gateways take from the bus, if they take messages of `max_message_bytes`.
    pub(super) fn split(mut self, max_message_bytes: usize) -> Vec<Self> {
        let max_bytes = max_message_bytes.clamp(*PART_BYTES.start(), *PART_BYTES.end());
        let (mut parts, mut waiting, mut bytes) = (Vec::new(), Vec::new(), 0);
        for packet in mem::take(&mut self.waiting) {
            let len = packet.encoded_len() + MAX_FIELD_OVERHEAD;
            if bytes + len > max_bytes && !waiting.is_empty() {
                parts.push(Self { waiting: mem::take(&mut waiting), has_more: true, ..Self::default() });
                bytes = 0;
            }
            waiting.push(packet);
            bytes += len;
        }
        parts.push(Self { waiting, ..self });
        parts
    }

    /// Returns `None` if a packet is missing or not complete.
    pub(super) fn into_moving(self) -> Option<Moving> {
        let outgoing = |Waiting { mut packet, may_drop }: Waiting| {
            let header = packet.first_chunk().copied().map(Header::decode)?;
            let payload = packet.split_off(header.encode().len());
            Some(Outgoing { header, payload, keep: if may_drop { Keep::MayDrop } else { Keep::Always } })
        };
        let Self { pushes, received_push, received_replies, packets: _, waiting, has_more: _, all_waiting } = self;
        if waiting.len() as u64 != all_waiting {
            return None;
        }
        let waiting = waiting.into_iter().map(outgoing).collect::<Option<_>>()?;
        Some(Moving { pushes, received: (received_push, received_replies), waiting })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(bytes: &[usize]) -> Vec<Waiting> {
        bytes.iter().map(|bytes| Waiting { packet: vec![1; *bytes].into(), may_drop: true }).collect()
    }

    #[test]
    fn a_state_is_split_between_packets_and_its_last_part_has_the_rest() {
        let state = State {
            pushes: 7,
            waiting: waiting(&[20_000, 10_000, 70_000, 10, 20, 32_000, 8]),
            all_waiting: 7,
            ..State::default()
        };
        let parts = state.clone().split(256);
        let lens = |part: &State| part.waiting.iter().map(|it| it.packet.len()).collect::<Vec<_>>();
        let expected = [vec![20_000, 10_000], vec![70_000], vec![10, 20, 32_000, 8]];
        assert_eq!(parts.iter().map(lens).collect::<Vec<_>>(), expected);
        assert_eq!(
            parts.iter().map(|it| (it.pushes, it.has_more)).collect::<Vec<_>>(),
            [(0, true), (0, true), (7, false)]
        );
        assert_eq!(State { waiting: Vec::new(), ..state }.split(256).len(), 1);
        for part in (State { waiting: waiting(&[8; 10_000]), ..State::default() }).split(256) {
            assert!(part.encoded_len() <= 32 << 10, "{}", part.encoded_len());
        }
    }

    #[test]
    fn a_state_without_one_of_its_parts_is_no_state() {
        let state = State { waiting: waiting(&[20_000; 5]), all_waiting: 5, ..State::default() };
        let mut parts = state.split(256);
        let last = parts.pop().unwrap();
        assert!(!parts.is_empty() && last.clone().into_moving().is_none());
        let whole =
            State { waiting: parts.into_iter().chain([last.clone()]).flat_map(|it| it.waiting).collect(), ..last };
        assert!(whole.into_moving().is_some());
    }
}
