//! Messages that are built once and sent many times. Only their number differs.

/// The value that stands for the number 0. The varints from here on all have [`NUMBER_BYTES`] bytes, so a number is
/// replaced in place.
const NUMBER_BASE: u64 = 1 << 42;

/// The length of a number: that of the varints from [`NUMBER_BASE`] up to 2^49, and as many letters.
pub(crate) const NUMBER_BYTES: usize = 7;

/// The form of the number in a message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A varint of [`NUMBER_BASE`] and the number, for messages of Protocol Buffers.
    Varint,
    /// Letters from `@` on, of 5 bits each, for messages that are text.
    Letters,
}

/// The payload of a packet.
#[derive(Clone)]
pub(crate) struct Payload {
    pub(crate) bytes: Vec<u8>,
    /// The place of the number, which has [`NUMBER_BYTES`]. If it is `None`, only the seq of the packet has the number.
    pub(crate) number_at: Option<usize>,
    pub(crate) form: Form,
}

/// All bytes of a message: a client's frame or a command for Redis.
pub(crate) struct Template {
    pub(crate) bytes: Vec<u8>,
    /// The place of the packet's seq, if the message is a packet.
    pub(crate) seq_at: Option<usize>,
    /// The place of the number, as in [`Payload`].
    pub(crate) number_at: Option<usize>,
    pub(crate) form: Form,
}

impl Payload {
    /// Returns the number in `bytes`, if `bytes` are this payload but for the number.
    pub(crate) fn number_in(&self, bytes: &[u8]) -> Option<u64> {
        let at = self.number_at?;
        if bytes.len() != self.bytes.len() || bytes[..at] != self.bytes[..at] {
            return None;
        }
        let (number, rest) = bytes[at..].split_first_chunk()?;
        (*rest == self.bytes[at + NUMBER_BYTES..]).then(|| self.form.decode(*number))?
    }
}

impl Template {
    /// Appends the message with this number.
    pub(crate) fn append(&self, number: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let message = &mut out[start..];
        if let Some(at) = self.seq_at {
            // The seq is a counter that wraps, so it is the low half of the number.
            message[at..at + 4].copy_from_slice(&(number as u32).to_be_bytes());
        }
        if let Some(at) = self.number_at {
            message[at..at + NUMBER_BYTES].copy_from_slice(&self.form.encode(number));
        }
    }
}

/// The value of the integer field that carries the number, in the message with the number 0.
pub(crate) const fn first_number() -> i64 {
    NUMBER_BASE as i64
}

impl Form {
    fn encode(self, number: u64) -> [u8; NUMBER_BYTES] {
        let mut bytes = [0; NUMBER_BYTES];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = match self {
                // A byte has seven bits of the value, and a flag unless it is the last byte.
                Self::Varint => ((NUMBER_BASE + number) >> (7 * index)) as u8 | 0x80,
                Self::Letters => b'@' | (number >> (5 * index)) as u8 & 0x1f,
            };
        }
        if self == Self::Varint {
            bytes[NUMBER_BYTES - 1] &= 0x7f;
        }
        bytes
    }

    fn decode(self, bytes: [u8; NUMBER_BYTES]) -> Option<u64> {
        let (bits, first) = match self {
            Self::Varint => (7, NUMBER_BASE),
            Self::Letters => (5, 0),
        };
        let digit = |byte: u8| u64::from(byte) & ((1 << bits) - 1);
        let value = bytes.iter().rev().fold(0, |value, byte| value << bits | digit(*byte));
        value.checked_sub(first).filter(|number| self.encode(*number) == bytes)
    }
}

#[cfg(test)]
mod tests {
    use prost::encoding::{decode_varint, encode_varint};

    use super::*;

    #[test]
    fn numbers_are_varints_of_one_length() {
        for number in [0, 1, 127, 128, 1 << 20, u64::from(u32::MAX), (1 << 49) - NUMBER_BASE - 1] {
            let mut varint = Vec::new();
            encode_varint(NUMBER_BASE + number, &mut varint);
            let bytes = Form::Varint.encode(number);
            assert_eq!(bytes[..], varint);
            assert_eq!(Form::Varint.decode(bytes), Some(number));
            assert_eq!(decode_varint(&mut &bytes[..]), Ok(NUMBER_BASE + number));
        }
    }

    #[test]
    fn numbers_in_text_are_letters() {
        for number in [0, 1, 31, 32, u64::from(u32::MAX), (1 << 35) - 1] {
            let bytes = Form::Letters.encode(number);
            assert!(bytes.iter().all(|byte| (b'@'..=b'_').contains(byte)), "{bytes:?}");
            assert_eq!(Form::Letters.decode(bytes), Some(number));
        }
        assert_eq!(Form::Letters.encode(33), *b"AA@@@@@");
        assert_eq!(Form::Letters.decode(*b"AA@@@@x"), None);
    }

    #[test]
    fn other_bytes_are_no_numbers() {
        let payload = Payload { bytes: b"<.......>".into(), number_at: Some(1), form: Form::Varint };
        let encode = |number| Form::Varint.encode(number);
        let with = |number: [u8; 7]| [b"<", &number[..], b">"].concat();
        assert_eq!(payload.number_in(&with(encode(9))), Some(9));
        assert_eq!(payload.number_in(&with([0xff; 7])), None);
        assert_eq!(payload.number_in(&with([1; 7])), None);
        assert_eq!(payload.number_in(&[b"<", &encode(9)[..], b"?"].concat()), None);
        assert_eq!(payload.number_in(&[b"?", &encode(9)[..], b">"].concat()), None);
        assert_eq!(payload.number_in(&with(encode(9))[..8]), None);
        assert_eq!(payload.number_in(b""), None);
    }

    #[test]
    fn a_template_is_numbered_in_place() {
        let template = Template { bytes: vec![b'.'; 14], seq_at: Some(1), number_at: Some(6), form: Form::Varint };
        let mut out = b"before".to_vec();
        template.append(0x1_0203_0405, &mut out);
        let number = Form::Varint.encode(0x1_0203_0405);
        let expected = [b"before.\x02\x03\x04\x05.", &number[..], b"."].concat();
        assert_eq!(out, expected);
    }
}
