//! The pushes of a gateway, decoded.
//!
//! A chat push carries a `ChatResponse` or a `MessageBroadcast`, and nothing in the packet says which of the two. The
//! payload is a backend's, unchanged. Field numbers and wire types tell the two messages apart. Decoding both ways and
//! taking the one that succeeds was rejected: protobuf ignores unknown fields, so decoding as the wrong message may
//! well succeed.

use chat_proto::chat::{ChatResponse, MessageBroadcast};
use gateway_proto::{Control, Gap, Reconnect, Welcome, control::Event};
use gateway_wire::packet::{Packet, ROUTE_CHAT, ROUTE_CONTROL, ROUTE_SYSTEM, Status};
use prost::Message;

/// A push whose payload this client can decode.
#[derive(Debug, PartialEq)]
pub(crate) enum Push {
    /// The first packet of a session.
    Welcome(Welcome),
    /// Messages for the session may have been lost.
    Gap(Gap),
    /// The gateway is going to stop.
    Reconnect(Reconnect),
    /// The answer of a backend to the sender.
    Response(ChatResponse),
    /// A message of a user.
    Broadcast(MessageBroadcast),
}

impl Push {
    /// Decodes a push. Returns `None` for a reply and for a payload of another kind.
    pub(crate) fn of(packet: &Packet) -> Option<Self> {
        if packet.header.is_reply() || packet.header.status != Status::Ok as u16 {
            return None;
        }
        match (packet.header.route, packet.header.seq) {
            (ROUTE_SYSTEM, 0) => {
                let welcome = Welcome::decode(packet.payload.clone()).ok()?;
                (!welcome.session_id.is_empty()).then_some(Self::Welcome(welcome))
            }
            (ROUTE_CONTROL, 0) => match Control::decode(packet.payload.clone()).ok()?.event? {
                Event::Gap(gap) => Some(Self::Gap(gap)),
                Event::Reconnect(reconnect) => Some(Self::Reconnect(reconnect)),
                Event::TokenExpires(_) => None,
            },
            (ROUTE_CHAT, _) => match Fit::of(&packet.payload)?.kind()? {
                Kind::Response => ChatResponse::decode(packet.payload.clone()).ok().map(Self::Response),
                Kind::Broadcast => MessageBroadcast::decode(packet.payload.clone()).ok().map(Self::Broadcast),
            },
            _ => None,
        }
    }
}

enum Kind {
    Response,
    Broadcast,
}

/// The messages that the fields of a payload can belong to.
struct Fit {
    response: bool,
    broadcast: bool,
    /// Whether any field belongs to either message. Plain text often happens to be valid protobuf with high field
    /// numbers.
    known: bool,
}

impl Fit {
    /// Reads all fields of a payload. Returns `None` if the payload is not protobuf.
    fn of(mut payload: &[u8]) -> Option<Self> {
        let mut fit = Self { response: true, broadcast: true, known: false };
        while !payload.is_empty() {
            let (number, value) = take_field(&mut payload)?;
            let (response, broadcast) = match (number, value) {
                (1, Value::Bytes) => (true, false),                             // base | -
                (1, Value::Varint(_)) => (false, true),                         // - | message_id
                (2, Value::Varint(0 | 1)) => (true, true),                      // success | sender_id
                (2, Value::Varint(_)) => (false, true),                         // - | sender_id
                (3, Value::Bytes) => (true, true),                              // error_message | sender_name
                (4 | 10, Value::Varint(_)) => (true, true), // message_id | channel_id, target_user_id
                (5, Value::Varint(_)) | (11, Value::Bytes) => (true, false), // timestamp, target_session_id | -
                (5, Value::Bytes) | (6 | 7, Value::Varint(_)) => (false, true), // - | content, timestamp, type
                (1..=7 | 10 | 11, _) => (false, false),
                // This is a field of a later version of either message.
                _ => continue,
            };
            fit.known = true;
            fit.response &= response;
            fit.broadcast &= broadcast;
        }
        Some(fit)
    }

    fn kind(&self) -> Option<Kind> {
        match (self.known, self.response, self.broadcast) {
            // Both fit only if a broadcast would have neither id, time nor content. A response may be that short.
            (true, true, _) => Some(Kind::Response),
            (true, false, true) => Some(Kind::Broadcast),
            _ => None,
        }
    }
}

/// The value of a field, as far as it tells messages apart.
enum Value {
    Varint(u64),
    Bytes,
    Fixed,
}

/// Takes the number and the value of the first field. Groups, which proto3 does not have, are refused.
fn take_field(payload: &mut &[u8]) -> Option<(u64, Value)> {
    let key = take_varint(payload)?;
    let value = match key & 0b111 {
        0 => Value::Varint(take_varint(payload)?),
        1 => skip(payload, 8).map(|()| Value::Fixed)?,
        2 => {
            let length = usize::try_from(take_varint(payload)?).ok()?;
            skip(payload, length).map(|()| Value::Bytes)?
        }
        5 => skip(payload, 4).map(|()| Value::Fixed)?,
        _ => return None,
    };
    let number = key >> 3;
    (number != 0).then_some((number, value))
}

fn skip(payload: &mut &[u8], length: usize) -> Option<()> {
    *payload = payload.get(length..)?;
    Some(())
}

/// Takes a u64 of up to ten bytes, the lowest seven bits first.
fn take_varint(payload: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = payload.split_first()?;
        *payload = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
#[path = "push_tests.rs"]
mod tests;
