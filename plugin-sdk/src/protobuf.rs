//! Reads the fields of a protobuf message in place, without allocation.
//!
//! This module suits a policy that decides on a few fields of a message and forwards the whole message. Fields that the
//! policy does not read stay undecoded, including fields of newer versions.
//!
//! ```
//! use gateway_plugin_sdk::{Rejection, protobuf};
//!
//! /// The field `int32 user_id = 2`.
//! fn user(message: &[u8]) -> Result<i32, Rejection> {
//!     let mut user = 0;
//!     for field in protobuf::fields(message) {
//!         let field = field?;
//!         if field.number == 2 {
//!             user = field.int32()?;
//!         }
//!     }
//!     Ok(user)
//! }
//!
//! assert_eq!(user(b"\x0a\x03mmo\x10\x07"), Ok(7));
//! assert_eq!(user(b"\x10").unwrap_err().status, 2);
//! ```
//!
//! The iterator yields a field as often as the message contains it. By the rules of protobuf the last value of a scalar
//! field counts, and repeated occurrences of an embedded message are merged.

use crate::Rejection;
use std::fmt;

/// Why a protobuf message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The message ends within a field.
    Truncated,
    /// The message has a varint of more than 64 bits, a field number that is 0 or too large, or an unknown wire type.
    /// Groups, which protobuf deprecates, count as an unknown wire type.
    Encoding,
    /// The field with this number has another type than the policy asked for.
    Type(u32),
    /// The string field with this number is not UTF-8.
    Utf8(u32),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the message ends within a field"),
            Self::Encoding => f.write_str("not a protobuf message"),
            Self::Type(number) => write!(f, "field {number} has another type"),
            Self::Utf8(number) => write!(f, "field {number} is not UTF-8"),
        }
    }
}

impl std::error::Error for Malformed {}

impl From<Malformed> for Rejection {
    /// Returns a rejection with status 2, malformed payload.
    fn from(malformed: Malformed) -> Self {
        Self::malformed(malformed.to_string())
    }
}

/// A field of a protobuf message, as [`fields`] yields it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The field's number in the `.proto` file.
    pub number: u32,
    value: Value<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Len(&'a [u8]),
    Fixed32([u8; 4]),
}

impl<'a> Field<'a> {
    /// Returns the 64 bits of a field of type `uint64`, or of another type that is encoded as a varint.
    ///
    /// # Errors
    /// Returns [`Malformed::Type`] if the field is not a varint.
    pub fn varint(self) -> Result<u64, Malformed> {
        if let Value::Varint(value) = self.value { Ok(value) } else { Err(Malformed::Type(self.number)) }
    }

    /// Returns the value of a field of type `int32`, or of an enum type.
    ///
    /// # Errors
    /// Returns [`Malformed::Type`] if the field is not a varint.
    pub fn int32(self) -> Result<i32, Malformed> {
        // Other protobuf implementations also keep the low 32 bits of a larger number.
        self.varint().map(|value| value as i32)
    }

    /// Returns the content of a field of type `bytes`, or the encoding of an embedded message.
    ///
    /// # Errors
    /// Returns [`Malformed::Type`] if the field is not length-delimited.
    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        if let Value::Len(bytes) = self.value { Ok(bytes) } else { Err(Malformed::Type(self.number)) }
    }

    /// Returns the value of a field of type `string`.
    ///
    /// # Errors
    /// Returns [`Malformed::Type`] if the field is not length-delimited, and [`Malformed::Utf8`] if the content is not
    /// UTF-8.
    pub fn string(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::Utf8(self.number))
    }

    /// Returns the value of a field of type `fixed64`.
    ///
    /// # Errors
    /// Returns [`Malformed::Type`] if the field is not encoded in 8 fixed bytes.
    pub fn fixed64(self) -> Result<u64, Malformed> {
        if let Value::Fixed64(bytes) = self.value {
            Ok(u64::from_le_bytes(bytes))
        } else {
            Err(Malformed::Type(self.number))
        }
    }

    /// Returns the value of a field of type `fixed32`.
    ///
    /// # Errors
    /// Returns [`Malformed::Type`] if the field is not encoded in 4 fixed bytes.
    pub fn fixed32(self) -> Result<u32, Malformed> {
        if let Value::Fixed32(bytes) = self.value {
            Ok(u32::from_le_bytes(bytes))
        } else {
            Err(Malformed::Type(self.number))
        }
    }
}

/// Returns an iterator over the fields of an encoded message, in the order of the encoding.
///
/// The iterator ends after the first error.
#[must_use]
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields { rest: message }
}

/// The iterator that [`fields`] returns.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Malformed>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    #[inline(always)]
    fn field(&mut self) -> Result<Field<'a>, Malformed> {
        let key = u32::try_from(self.varint()?).map_err(|_| Malformed::Encoding)?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.array()?),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed::Truncated)?;
                let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Truncated)?;
                self.rest = rest;
                Value::Len(bytes)
            }
            5 => Value::Fixed32(self.array()?),
            _ => return Err(Malformed::Encoding),
        };
        let number = key >> 3;
        if number == 0 { Err(Malformed::Encoding) } else { Ok(Field { number, value }) }
    }

    #[inline(always)]
    fn varint(&mut self) -> Result<u64, Malformed> {
        match self.rest {
            [byte @ ..0x80, rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (i, byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if *byte < 0x80 {
                self.rest = &self.rest[i + 1..];
                // The first nine bytes hold 63 bits, so only the lowest bit of the tenth byte is valid.
                return if i == 9 && *byte > 1 { Err(Malformed::Encoding) } else { Ok(value) };
            }
        }
        Err(if self.rest.len() < 10 { Malformed::Truncated } else { Malformed::Encoding })
    }

    #[inline(always)]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn only(message: &[u8]) -> Field<'_> {
        let fields: Result<Vec<_>, _> = fields(message).collect();
        assert_eq!(fields.as_ref().map(Vec::len), Ok(1));
        fields.unwrap()[0]
    }

    #[test]
    fn each_type_is_read() {
        assert_eq!(only(b"\x08\x96\x01").varint(), Ok(150));
        assert_eq!(only(b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").int32(), Ok(-1));
        assert_eq!(only(b"\x12\x02hi").string(), Ok("hi"));
        assert_eq!(only(b"\x12\x01\xff").bytes(), Ok(&b"\xff"[..]));
        assert_eq!(only(b"\x0d\x01\0\0\0").fixed32(), Ok(1));
        assert_eq!(only(b"\x09\x01\0\0\0\0\0\0\0").fixed64(), Ok(1));
        assert_eq!(only(b"\xfa\xff\xff\xff\x0f\0").number, (1 << 29) - 1);
    }

    #[test]
    fn another_type_than_asked_for_names_the_field() {
        let field = only(b"\x12\x01\xff");
        assert_eq!(field.string(), Err(Malformed::Utf8(2)));
        assert_eq!(field.int32(), Err(Malformed::Type(2)));
        assert_eq!((field.fixed32(), field.fixed64()), (Err(Malformed::Type(2)), Err(Malformed::Type(2))));
        assert_eq!(only(b"\x08\x01").bytes(), Err(Malformed::Type(1)));
    }

    #[track_caller]
    fn malformed(message: &[u8], error: Malformed) {
        let all: Vec<_> = fields(message).collect();
        assert_eq!(all, [Err(error)], "and nothing after it");
    }

    #[test]
    fn what_is_malformed_is_told_apart() {
        for truncated in [&b"\x08"[..], b"\x08\x80", b"\x12\x02h", b"\x0d\0\0\0", b"\x09\0", b"\x80"] {
            malformed(truncated, Malformed::Truncated);
        }
        let long = [&[0x08][..], &[0xff; 9], &[2]].concat();
        for bad in [&b"\x02\0"[..], b"\x0b", b"\x0c", b"\x0e", b"\x0f", &[0xff; 11], &long] {
            malformed(bad, Malformed::Encoding);
        }
    }
}
