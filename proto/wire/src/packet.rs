//! The packet that client and gateway exchange: an 8-byte header, then the payload. One binary WebSocket message is one
//! packet.
//!
//! All integers are big-endian.
//!
//! | offset | type | field  | client to gateway            | gateway to client                                      |
//! |--------|------|--------|------------------------------|--------------------------------------------------------|
//! | 0      | u32  | seq    | the client's own counter     | a reply: the request's; a push: the delivery counter   |
//! | 4      | u8   | route  | what the packet is for       | the same                                               |
//! | 5      | u8   | flags  | bit 2: an acknowledgement    | bit 0: a reply; bit 1: a push that replaced another    |
//! | 6      | u16  | status | the acknowledged push, or 0  | 0, or the reason of a refusal                          |

use bytes::{Buf, Bytes};

/// The length of the header in bytes.
pub const HEADER_LEN: usize = 8;

/// Bit 0 of the flags: the packet answers the request with the same seq.
pub const FLAG_REPLY: u8 = 1;

/// Bit 1 of the flags: the push took the place of at least one older push that the client never gets. It has the
/// delivery number of the older push, so that a gap in the numbers always means a loss.
pub const FLAG_REPLACES: u8 = 2;

/// Bit 2 of the flags, in packets of clients: the status holds the low 16 bits of the delivery number of the last push
/// that the client has received.
pub const FLAG_ACK: u8 = 4;

/// The route of the gateway itself, which no plugin may claim.
pub const ROUTE_CONTROL: u8 = 0x00;

/// The route of chat.
pub const ROUTE_CHAT: u8 = 0x01;

/// The route that is reserved for a plugin of the game.
pub const ROUTE_GAME: u8 = 0x02;

/// The route of heartbeats and of the welcome.
pub const ROUTE_SYSTEM: u8 = 0x03;

/// The reason why a request was refused. The numbers are part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// The request was served.
    Ok = 0,
    /// The packet is shorter than a header.
    MalformedPacket = 1,
    /// The policy could not read the payload. Only plugins answer with this status.
    MalformedPayload = 2,
    /// No plugin serves the route.
    NoRoute = 3,
    /// The policy refused the request. Only plugins answer with this status.
    Rejected = 4,
    /// The bus cannot take the request, or the plugin is in quarantine.
    Unavailable = 5,
    /// The request carries another user's id.
    Forbidden = 6,
    /// The session has to wait, because its packets made a plugin fail. Plugins answer with this status as well.
    TooManyRequests = 7,
    /// The plugin failed.
    Internal = 8,
    /// The payload is larger than the route takes.
    PayloadTooLarge = 9,
}

impl Status {
    /// Every status, at the index that is its number.
    const ALL: [Self; 10] = [
        Self::Ok,
        Self::MalformedPacket,
        Self::MalformedPayload,
        Self::NoRoute,
        Self::Rejected,
        Self::Unavailable,
        Self::Forbidden,
        Self::TooManyRequests,
        Self::Internal,
        Self::PayloadTooLarge,
    ];

    /// Returns the status with this number, or `None` if the number is reserved or a game's own.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name in snake case, as metrics carry it. docs/protocol.md has the same name with spaces.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::MalformedPacket => "malformed_packet",
            Self::MalformedPayload => "malformed_payload",
            Self::NoRoute => "no_route",
            Self::Rejected => "rejected",
            Self::Unavailable => "unavailable",
            Self::Forbidden => "forbidden",
            Self::TooManyRequests => "too_many_requests",
            Self::Internal => "internal",
            Self::PayloadTooLarge => "payload_too_large",
        }
    }
}

/// The header of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The number that pairs a reply with its request, or that counts the pushes of a session.
    pub seq: u32,
    /// What the packet is for.
    pub route: u8,
    /// Bits with a meaning of their own: [`FLAG_REPLY`] and [`FLAG_REPLACES`]. The others are reserved.
    pub flags: u8,
    /// The number of a [`Status`]. Plugins may answer with numbers of their own.
    pub status: u16,
}

/// The error for a packet that is shorter than its header. It holds the packet's length in bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a packet begins with a header of {HEADER_LEN} bytes, and this one has {0}")]
pub struct TooShort(pub usize);

impl Header {
    /// Returns the header of a client's request.
    #[must_use]
    #[inline]
    pub fn request(seq: u32, route: u8) -> Self {
        Self { seq, route, ..Self::default() }
    }

    /// Returns the header of a reply to the packet that has this header.
    #[must_use]
    #[inline]
    pub fn reply(self, status: u16) -> Self {
        Self { flags: FLAG_REPLY, status, ..self }
    }

    /// Returns the header of a push.
    #[must_use]
    #[inline]
    pub fn push(route: u8, seq: u32) -> Self {
        Self { seq, route, ..Self::default() }
    }

    /// Whether the packet answers a request. A packet of the gateway that is not a reply is a push.
    #[must_use]
    #[inline]
    pub fn is_reply(self) -> bool {
        self.flags & FLAG_REPLY != 0
    }

    /// Returns the bytes of the header.
    #[must_use]
    #[inline]
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let [s0, s1, s2, s3] = self.seq.to_be_bytes();
        let [t0, t1] = self.status.to_be_bytes();
        [s0, s1, s2, s3, self.route, self.flags, t0, t1]
    }

    /// Returns the header that has these bytes.
    #[must_use]
    #[inline]
    pub fn decode([s0, s1, s2, s3, route, flags, t0, t1]: [u8; HEADER_LEN]) -> Self {
        Self { seq: u32::from_be_bytes([s0, s1, s2, s3]), route, flags, status: u16::from_be_bytes([t0, t1]) }
    }
}

/// Splits a borrowed packet into header and payload.
///
/// # Errors
/// Returns [`TooShort`] if the header is not complete.
#[inline]
pub fn split(packet: &[u8]) -> Result<(Header, &[u8]), TooShort> {
    let (header, payload) = packet.split_first_chunk().ok_or(TooShort(packet.len()))?;
    Ok((Header::decode(*header), payload))
}

/// Splits a packet into header and payload, without a copy.
///
/// # Errors
/// Returns [`TooShort`] if the header is not complete.
#[inline]
pub fn parse(mut packet: Bytes) -> Result<(Header, Bytes), TooShort> {
    let (header, _) = split(&packet)?;
    packet.advance(HEADER_LEN);
    Ok((header, packet))
}

/// A packet: its header and its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The header.
    pub header: Header,
    /// The bytes behind the header. In a refusal they are a short UTF-8 text that says why.
    pub payload: Bytes,
}

impl Packet {
    /// Returns a client's request.
    #[must_use]
    pub fn request(seq: u32, route: u8, payload: impl Into<Bytes>) -> Self {
        Self { header: Header::request(seq, route), payload: payload.into() }
    }

    /// Returns the gateway's reply to this packet.
    #[must_use]
    pub fn reply(&self, status: u16, payload: impl Into<Bytes>) -> Self {
        Self { header: self.header.reply(status), payload: payload.into() }
    }

    /// Returns a push of the gateway.
    #[must_use]
    pub fn push(route: u8, seq: u32, payload: impl Into<Bytes>) -> Self {
        Self { header: Header::push(route, seq), payload: payload.into() }
    }

    /// Returns the packet in a WebSocket message, without a copy.
    ///
    /// # Errors
    /// Returns [`TooShort`] if the header is not complete.
    pub fn parse(message: Bytes) -> Result<Self, TooShort> {
        parse(message).map(|(header, payload)| Self { header, payload })
    }

    /// Returns the bytes of the WebSocket message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        [&self.header.encode()[..], &self.payload].concat().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_fields_stand_where_the_protocol_says() {
        let header = Header { seq: 0x0102_0304, route: 5, flags: 6, status: 0x0708 };
        assert_eq!(header.encode(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(header.reply(9).encode(), [1, 2, 3, 4, 5, FLAG_REPLY, 0, 9]);
        assert_eq!(Header::push(3, 1).encode(), [0, 0, 0, 1, 3, 0, 0, 0]);
        assert_eq!(Header { flags: FLAG_REPLACES, ..Header::push(3, 1) }.encode(), [0, 0, 0, 1, 3, 2, 0, 0]);
        assert_eq!(Header::request(7, 3).encode(), [0, 0, 0, 7, 3, 0, 0, 0]);
    }

    #[test]
    fn a_packet_is_its_header_and_its_payload() {
        let request = Packet::request(u32::MAX, ROUTE_CHAT, "hi");
        assert_eq!(request.encode(), b"\xff\xff\xff\xff\x01\0\0\0hi"[..]);
        assert_eq!(request.reply(5, "").encode(), b"\xff\xff\xff\xff\x01\x01\0\x05"[..]);
        assert_eq!(Packet::push(ROUTE_SYSTEM, 7, "ping").encode(), b"\0\0\0\x07\x03\0\0\0ping"[..]);
    }

    #[test]
    fn only_bit_0_of_the_flags_makes_a_reply() {
        let is_reply = |flags| Header { flags, ..Header::default() }.is_reply();
        assert_eq!([0b0000_0001, 0b1000_0001, 0b1111_1110].map(is_reply), [true, true, false]);
    }

    #[test]
    fn a_status_is_found_by_its_number() {
        for (number, status) in (0..).zip(Status::ALL) {
            assert_eq!((status as u16, Status::from_number(number)), (number, Some(status)));
        }
        assert_eq!([10, 256, u16::MAX].map(Status::from_number), [None; 3]);
    }

    proptest! {
        #[test]
        fn any_bytes_parse_to_what_encodes_to_them(bytes: Vec<u8>) {
            let message = Bytes::from(bytes.clone());
            match parse(message.clone()) {
                Ok((header, payload)) => {
                    prop_assert_eq!(split(&bytes), Ok((header, &payload[..])));
                    let packet = Packet { header, payload };
                    prop_assert_eq!(Packet::parse(message), Ok(packet.clone()));
                    prop_assert_eq!(&packet.encode()[..], bytes);
                }
                Err(TooShort(len)) => {
                    prop_assert!(len == bytes.len() && len < HEADER_LEN);
                    prop_assert_eq!(Packet::parse(message), Err(TooShort(len)));
                }
            }
        }
    }
}
