//! The packet that client and gateway exchange: an 8-byte header, big-endian, then the payload.
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | u32 | seq |
//! | 4 | u8 | route |
//! | 5 | u8 | flags |
//! | 6 | u16 | status |

use tokio_tungstenite::tungstenite::Bytes;

/// What precedes the payload, in bytes.
pub(crate) const HEADER_BYTES: usize = 8;

/// Chat, served by the game's chat backend.
pub(crate) const ROUTE_CHAT: u8 = 0x01;
/// Reserved for a plugin of the game.
pub(crate) const ROUTE_GAME: u8 = 0x02;
/// Heartbeats, and what the gateway itself has to say.
pub(crate) const ROUTE_SYSTEM: u8 = 0x03;

/// The request was served.
pub(crate) const STATUS_OK: u16 = 0;

/// Bit 0 of the flags: the packet answers the request with the same seq.
const FLAG_REPLY: u8 = 0b1;

/// One packet, as one binary WebSocket message carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Of a request and its reply: the client's own counter. Of a push: the session's delivery counter.
    pub(crate) seq: u32,
    pub(crate) route: u8,
    pub(crate) flags: u8,
    /// 0 is ok; else the payload says in a short UTF-8 text why the request was refused.
    pub(crate) status: u16,
    pub(crate) payload: Bytes,
}

impl Packet {
    /// A request of the client: flags and status are 0.
    pub(crate) fn request(seq: u32, route: u8, payload: impl Into<Bytes>) -> Self {
        Self { seq, route, flags: 0, status: STATUS_OK, payload: payload.into() }
    }

    /// Whether it answers a request; else the gateway sent it unasked.
    pub(crate) fn is_reply(&self) -> bool {
        self.flags & FLAG_REPLY != 0
    }

    /// The bytes of the WebSocket message.
    pub(crate) fn encode(&self) -> Bytes {
        let mut message = Vec::with_capacity(HEADER_BYTES + self.payload.len());
        message.extend_from_slice(&self.seq.to_be_bytes());
        message.extend_from_slice(&[self.route, self.flags]);
        message.extend_from_slice(&self.status.to_be_bytes());
        message.extend_from_slice(&self.payload);
        message.into()
    }

    /// The packet in a WebSocket message, or none if that is shorter than a header.
    pub(crate) fn decode(message: &Bytes) -> Option<Self> {
        let &[s0, s1, s2, s3, route, flags, t0, t1] = message.first_chunk::<HEADER_BYTES>()?;
        Some(Self {
            seq: u32::from_be_bytes([s0, s1, s2, s3]),
            route,
            flags,
            status: u16::from_be_bytes([t0, t1]),
            payload: message.slice(HEADER_BYTES..),
        })
    }
}

#[cfg(test)]
impl Packet {
    /// What a gateway answers to `self`.
    pub(crate) fn reply(&self, status: u16, payload: impl Into<Bytes>) -> Self {
        Self { flags: FLAG_REPLY, status, payload: payload.into(), ..self.clone() }
    }

    /// What a gateway sends unasked. It has the form of a request.
    pub(crate) fn push(seq: u32, route: u8, payload: impl Into<Bytes>) -> Self {
        Self::request(seq, route, payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(packet: Packet, message: &'static [u8]) {
        assert_eq!(packet.encode(), message);
        assert_eq!(Packet::decode(&Bytes::from_static(message)), Some(packet));
    }

    #[test]
    fn every_field_has_its_place() {
        let packet =
            Packet { seq: 0x0102_0304, route: 5, flags: 6, status: 0x0708, payload: Bytes::from_static(b"hi") };
        check(packet, b"\x01\x02\x03\x04\x05\x06\x07\x08hi");
    }

    #[test]
    fn a_request_has_neither_flags_nor_status() {
        check(Packet::request(7, ROUTE_SYSTEM, "ping"), b"\0\0\0\x07\x03\0\0\0ping");
    }

    #[test]
    fn a_payload_may_be_empty() {
        check(Packet::request(u32::MAX, ROUTE_CHAT, ""), b"\xff\xff\xff\xff\x01\0\0\0");
    }

    #[test]
    fn less_than_a_header_is_no_packet() {
        for length in 0..HEADER_BYTES {
            assert_eq!(Packet::decode(&Bytes::from(vec![0; length])), None, "{length} bytes");
        }
    }

    #[test]
    fn only_bit_0_makes_a_reply() {
        let flagged = |flags| Packet { flags, ..Packet::request(1, ROUTE_CHAT, "") };
        assert!(flagged(0b0000_0001).is_reply());
        assert!(flagged(0b1000_0001).is_reply());
        assert!(!flagged(0b1111_1110).is_reply());
    }
}
