//! The text form of a [`SessionId`], and what a key of a map needs.

use crate::SessionId;
use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

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

impl Eq for SessionId {}

impl Hash for SessionId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.high, self.low).hash(state);
    }
}

impl Ord for SessionId {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.high, self.low).cmp(&(other.high, other.low))
    }
}

impl PartialOrd for SessionId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
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
