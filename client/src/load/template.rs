//! Messages that are built once and sent many times: only their number differs.

/// What the number begins with, so that its varint always has [`NUMBER_BYTES`] bytes, and none of them has to be moved.
const NUMBER_BASE: u64 = 1 << 42;

/// The length of the varint of [`NUMBER_BASE`] and of all that is below 2^49.
pub(super) const NUMBER_BYTES: usize = 7;

/// The payload of a packet.
#[derive(Clone)]
pub(super) struct Payload {
    pub(super) bytes: Vec<u8>,
    /// Where the number is, as a varint of [`NUMBER_BYTES`]. None: it is the seq of the packet alone.
    pub(super) number_at: Option<usize>,
}

/// All bytes of a message, on one of the two ways.
pub(super) struct Template {
    pub(super) bytes: Vec<u8>,
    /// Where the packet's seq is, if it is a packet.
    pub(super) seq_at: Option<usize>,
    /// As in [`Payload`].
    pub(super) number_at: Option<usize>,
}

impl Payload {
    /// The number in `bytes`, if these are this payload but for the number.
    pub(super) fn number_in(&self, bytes: &[u8]) -> Option<u64> {
        let at = self.number_at?;
        if bytes.len() != self.bytes.len() || bytes[..at] != self.bytes[..at] {
            return None;
        }
        let (number, rest) = bytes[at..].split_first_chunk()?;
        (*rest == self.bytes[at + NUMBER_BYTES..]).then(|| decode(*number))?
    }
}

impl Template {
    /// Appends the message with this number.
    pub(super) fn append(&self, number: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let message = &mut out[start..];
        if let Some(at) = self.seq_at {
            // The seq is a counter that wraps.
            message[at..at + 4].copy_from_slice(&(number as u32).to_be_bytes());
        }
        if let Some(at) = self.number_at {
            message[at..at + NUMBER_BYTES].copy_from_slice(&encode(number));
        }
    }
}

/// What a message holds whose number is 0, in the integer field that carries it.
pub(super) const fn first_number() -> i64 {
    NUMBER_BASE as i64
}

fn encode(number: u64) -> [u8; NUMBER_BYTES] {
    let value = NUMBER_BASE + number;
    let mut bytes = [0; NUMBER_BYTES];
    for (index, byte) in bytes.iter_mut().enumerate() {
        // The low seven bits, and a flag on all but the last byte.
        *byte = (value >> (7 * index)) as u8 | 0x80;
    }
    bytes[NUMBER_BYTES - 1] &= 0x7f;
    bytes
}

fn decode(bytes: [u8; NUMBER_BYTES]) -> Option<u64> {
    let value = bytes.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    value.checked_sub(NUMBER_BASE).filter(|number| encode(*number) == bytes)
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
            assert_eq!(encode(number)[..], varint);
            assert_eq!(decode(encode(number)), Some(number));
            assert_eq!(decode_varint(&mut &encode(number)[..]), Ok(NUMBER_BASE + number));
        }
    }

    #[test]
    fn other_bytes_are_no_numbers() {
        let payload = Payload { bytes: b"<.......>".into(), number_at: Some(1) };
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
        let template = Template { bytes: vec![b'.'; 14], seq_at: Some(1), number_at: Some(6) };
        let mut out = b"before".to_vec();
        template.append(0x1_0203_0405, &mut out);
        let expected = [b"before.\x02\x03\x04\x05.", &encode(0x1_0203_0405)[..], b"."].concat();
        assert_eq!(out, expected);
    }
}
