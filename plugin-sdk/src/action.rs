//! Constructors for [`Action`], and the text form of a [`SessionId`].

use crate::{Action, Answer, Closing, Delivery, Publication, SessionId, Target};
use std::{fmt, str::FromStr};

/// Constructors for the common actions. For every other action, use the variants of the enum.
///
/// The gateway checks the actions when the call returns. If an action is invalid, the gateway performs no action of
/// the call, and the client gets status 8.
///
/// ```
/// use gateway_plugin_sdk::{Action, Answer, Target};
///
/// let actions = [
///     Action::Bind(7),
///     Action::publish("requests"),
///     Action::deliver_body(Target::User(8), 0x20, "hello from 7"),
///     Action::reply("welcome"),
/// ];
/// // Statuses of 256 and above belong to the game.
/// let unknown = Action::Reply(Answer { status: 256, body: b"no such room".to_vec() });
/// assert_ne!(actions[3], unknown);
/// ```
impl Action {
    /// Publishes the payload of the current call on the bus, byte for byte. The topic has 1 to 256 bytes and no control
    /// characters.
    pub fn publish(topic: impl Into<String>) -> Self {
        Self::Publish(Publication { topic: topic.into(), body: None })
    }

    /// Publishes `body` on the bus. The topic has 1 to 256 bytes and no control characters.
    pub fn publish_body(topic: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self::Publish(Publication { topic: topic.into(), body: Some(body.into()) })
    }

    /// Answers the packet with status 0 and the payload `body`. Allowed only in
    /// [`Policy::on_packet`](crate::Policy::on_packet).
    pub fn reply(body: impl Into<Vec<u8>>) -> Self {
        Self::Reply(Answer { status: 0, body: body.into() })
    }

    /// Pushes the payload of the current call to `to`, byte for byte. The client receives the push on `route`, which
    /// must be a route that some plugin serves.
    #[must_use]
    pub fn deliver(to: Target, route: u8) -> Self {
        Self::Deliver(Delivery { to, route, body: None })
    }

    /// Pushes `body` to `to`. The client receives the push on `route`, which must be a route that some plugin serves.
    pub fn deliver_body(to: Target, route: u8, body: impl Into<Vec<u8>>) -> Self {
        Self::Deliver(Delivery { to, route, body: Some(body.into()) })
    }

    /// Closes the session that sent the packet, after its queued messages are sent. Allowed only in
    /// [`Policy::on_packet`](crate::Policy::on_packet).
    ///
    /// `code` is the WebSocket close code, 1000 or 3000 to 4999. `reason` has at most 123 bytes.
    pub fn close(code: u16, reason: impl Into<String>) -> Self {
        Self::Close(Closing { code, reason: reason.into() })
    }
}

/// The error for a text that is not a session id.
#[derive(Debug, PartialEq, Eq)]
pub struct NotASessionId;

impl fmt::Display for NotASessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a session id is a UUID: 32 hexadecimal digits, in groups of 8-4-4-4-12")
    }
}

impl std::error::Error for NotASessionId {}

/// Parses the text form of a session id, which clients and backends use: a UUID with hyphens, in upper or lower case.
///
/// ```
/// use gateway_plugin_sdk::SessionId;
///
/// let id: SessionId = "00000000-0000-0001-0000-000000000002".parse().unwrap();
/// assert_eq!((id.high, id.low), (1, 2));
/// ```
impl FromStr for SessionId {
    type Err = NotASessionId;

    fn from_str(text: &str) -> Result<Self, NotASessionId> {
        let groups: Vec<_> = text.split('-').collect();
        let lengths: Vec<_> = groups.iter().map(|group| group.len()).collect();
        let digits = groups.concat();
        if lengths != [8, 4, 4, 4, 12] || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotASessionId);
        }
        let half = |digits| u64::from_str_radix(digits, 16).map_err(|_| NotASessionId);
        Ok(Self { high: half(&digits[..16])?, low: half(&digits[16..])? })
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (high, low) = (self.high, self.low);
        let groups = [high >> 32, high >> 16 & 0xffff, high & 0xffff, low >> 48, low & 0xffff_ffff_ffff];
        let [a, b, c, d, e] = groups;
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_reads_as_it_is_written() {
        let text = "01234567-89ab-cdef-0123-456789abcdef";
        let id: SessionId = text.parse().unwrap();
        assert_eq!((id.high, id.low), (0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef));
        assert_eq!(id.to_string(), text);
        for other in ["", "0123456789abcdef0123456789abcdef", "g1234567-89ab-cdef-0123-456789abcdef", "é"] {
            assert_eq!(other.parse::<SessionId>().unwrap_err(), NotASessionId);
        }
    }
}
