//! The 8-byte packet header, pure: no socket, no session.
//!
//! All integers are big-endian.
//!
//! | offset | type | field  | client to gateway            | gateway to client                                      |
//! |--------|------|--------|------------------------------|--------------------------------------------------------|
//! | 0      | u32  | seq    | the client's own counter     | a reply: the request's; a push: the delivery counter   |
//! | 4      | u8   | route  | what the packet is for       | the same                                               |
//! | 5      | u8   | flags  | reserved, ignored            | bit 0: a reply                                         |
//! | 6      | u16  | status | reserved, ignored            | 0, else why the request was refused                    |

use bytes::{Buf, Bytes};

/// The length of the header in bytes.
pub const HEADER_LEN: usize = 8;

/// Bit 0 of the flags: the packet answers the one with the same seq.
pub const FLAG_REPLY: u8 = 1;

/// The route of heartbeats and of the welcome.
pub const ROUTE_SYSTEM: u8 = 0x03;

/// Why a request was refused. The numbers are part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// Served.
    Ok = 0,
    /// Shorter than a header.
    MalformedPacket = 1,
    /// The policy could not read the payload. Only plugins answer with it.
    MalformedPayload = 2,
    /// No plugin serves the route.
    NoRoute = 3,
    /// The policy said no. Only plugins answer with it.
    Rejected = 4,
    /// The bus is away.
    Unavailable = 5,
    /// Another user's id.
    Forbidden = 6,
    /// The session has to wait: its packets made a plugin fail. Plugins answer with it as well.
    TooManyRequests = 7,
    /// The plugin failed.
    Internal = 8,
    /// The payload is larger than the route takes.
    PayloadTooLarge = 9,
}

/// A packet's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Pairs a reply with its request; counts pushes.
    pub seq: u32,
    /// What the packet is for.
    pub route: u8,
    /// See [`FLAG_REPLY`].
    pub flags: u8,
    /// See [`Status`]; plugins may answer with numbers of their own.
    pub status: u16,
}

/// A packet that is shorter than its header.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a packet begins with a header of {HEADER_LEN} bytes, and this one has {0}")]
pub struct TooShort(pub usize);

impl Header {
    /// The header of a reply to the packet with this one.
    #[must_use]
    pub fn reply(self, status: u16) -> Self {
        Self { flags: FLAG_REPLY, status, ..self }
    }

    /// The header of a push.
    #[must_use]
    pub fn push(route: u8, seq: u32) -> Self {
        Self { seq, route, ..Self::default() }
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let [s0, s1, s2, s3] = self.seq.to_be_bytes();
        let [t0, t1] = self.status.to_be_bytes();
        [s0, s1, s2, s3, self.route, self.flags, t0, t1]
    }
}

/// Splits a packet into header and payload, without a copy.
///
/// # Errors
/// [`TooShort`] where the header is not complete.
pub fn parse(mut packet: Bytes) -> Result<(Header, Bytes), TooShort> {
    let Some(&[s0, s1, s2, s3, route, flags, t0, t1]) = packet.first_chunk() else {
        return Err(TooShort(packet.len()));
    };
    packet.advance(HEADER_LEN);
    let seq = u32::from_be_bytes([s0, s1, s2, s3]);
    Ok((Header { seq, route, flags, status: u16::from_be_bytes([t0, t1]) }, packet))
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
    }

    proptest! {
        #[test]
        fn any_bytes_parse_to_what_encodes_to_them(bytes: Vec<u8>) {
            match parse(Bytes::from(bytes.clone())) {
                Ok((header, payload)) => {
                    prop_assert_eq!([&header.encode()[..], &payload[..]].concat(), bytes);
                }
                Err(TooShort(len)) => prop_assert!(len == bytes.len() && len < HEADER_LEN),
            }
        }
    }
}
