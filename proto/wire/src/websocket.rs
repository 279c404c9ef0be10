//! Frames of the WebSocket protocol (RFC 6455, section 5), for both ends of a connection.
//!
//! A library's codec was rejected. Libraries reserve the whole length that a frame announces before any of its bytes
//! have arrived, so 14 bytes of a stranger cost them 16 MiB. They also hold a buffer for each connection, busy or not.
//! The property tests of the host's receiver compare this codec with tungstenite.

#[cfg(test)]
mod tests;

/// The largest payload of a control frame, in bytes.
pub const MAX_CONTROL_BYTES: usize = 125;

/// The largest header of a server's frame, in bytes.
pub const MAX_SERVER_HEAD_BYTES: usize = 10;

/// The largest header of a client's frame, in bytes. The last four bytes are the mask.
pub const MAX_CLIENT_HEAD_BYTES: usize = 14;

/// The bit of the first byte that says that the message ends with this frame.
pub const FINAL: u8 = 0x80;

/// The bit of the second byte that says that the payload is masked.
const MASKED: u8 = 0x80;

/// The purpose of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// The frame continues the message that an earlier frame began.
    Continuation = 0x0,
    /// The frame begins a text message.
    Text = 0x1,
    /// The frame begins a binary message.
    Binary = 0x2,
    /// The frame ends the connection.
    Close = 0x8,
    /// The frame asks for a pong.
    Ping = 0x9,
    /// The frame answers a ping, or is an unasked sign of life.
    Pong = 0xa,
}

impl Opcode {
    #[inline]
    fn parse(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    /// Whether the opcode is that of a close, a ping or a pong.
    #[must_use]
    #[inline]
    pub fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// A breach of RFC 6455.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A rule of the protocol is broken.
    #[error("{0}")]
    Rule(&'static str),
    /// Text is not UTF-8.
    #[error("text has to be UTF-8")]
    NotUtf8,
}

impl ProtocolError {
    /// The code of the close frame that answers the breach (section 7.4.1).
    #[must_use]
    pub fn close_code(self) -> u16 {
        match self {
            Self::Rule(_) => 1002,
            Self::NotUtf8 => 1007,
        }
    }
}

/// The end of a connection that sends a frame. A client masks its frames, a server does not (section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The end that asked for the upgrade.
    Client,
    /// The end that granted the upgrade.
    Server,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whether the message ends with this frame.
    pub last: bool,
    /// The purpose of the frame.
    pub opcode: Opcode,
    /// The length of the payload in bytes.
    pub len: u64,
    /// The mask of the payload. A server's frame has none, which is the same as a mask of zeros.
    pub mask: [u8; 4],
    /// The length of the header in bytes.
    pub size: usize,
}

impl Head {
    /// Returns the header that the bytes begin with, or `None` if the header is not complete.
    ///
    /// # Errors
    /// Returns [`ProtocolError::Rule`] if no frame of this sender begins with these bytes.
    #[inline]
    pub fn parse(bytes: &[u8], sender: Sender) -> Result<Option<Self>, ProtocolError> {
        let &[first, second, ..] = bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(ProtocolError::Rule("a reserved bit is set"));
        }
        let opcode = Opcode::parse(first & 0x0f).ok_or(ProtocolError::Rule("an opcode is reserved"))?;
        match (sender, second & MASKED != 0) {
            (Sender::Client, false) => return Err(ProtocolError::Rule("a client's frames have to be masked")),
            (Sender::Server, true) => return Err(ProtocolError::Rule("a server's frames are never masked")),
            _ => {}
        }
        let (len, after_len) = match second & !MASKED {
            126 => (chunk(bytes, 2).map(|len| u64::from(u16::from_be_bytes(len))), 4),
            127 => (chunk(bytes, 2).map(u64::from_be_bytes), 10),
            len => (Some(u64::from(len)), 2),
        };
        let last = first & FINAL != 0;
        if opcode.is_control() && !last {
            return Err(ProtocolError::Rule("a control frame is never fragmented"));
        }
        if opcode.is_control() && second & !MASKED > 125 {
            return Err(ProtocolError::Rule("a control frame has at most 125 bytes"));
        }
        let (mask, size) = match sender {
            Sender::Client => (chunk(bytes, after_len), after_len + 4),
            Sender::Server => (Some([0; 4]), after_len),
        };
        let (Some(len), Some(mask)) = (len, mask) else { return Ok(None) };
        Ok(Some(Self { last, opcode, len, mask, size }))
    }
}

#[inline]
fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied()
}

/// Masks a part of a payload that begins `offset` bytes into the payload, or takes the mask off again.
#[inline]
pub fn apply_mask(part: &mut [u8], mut mask: [u8; 4], offset: u64) {
    mask.rotate_left((offset % 4) as usize);
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = part.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends the header of a server's frame, which is neither fragmented nor masked.
#[inline]
pub fn put_head(opcode: Opcode, len: usize, out: &mut Vec<u8>) {
    put_length(opcode, 0, len, out);
}

/// Appends the header without the mask. The length takes its shortest form.
#[inline]
fn put_length(opcode: Opcode, mask_bit: u8, len: usize, out: &mut Vec<u8>) {
    let first = FINAL | opcode as u8;
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..126), _) => out.extend([first, mask_bit | len]),
        (_, Ok(len)) => {
            out.extend([first, mask_bit | 126]);
            out.extend(len.to_be_bytes());
        }
        _ => {
            out.extend([first, mask_bit | 127]);
            out.extend((len as u64).to_be_bytes());
        }
    }
}

/// Appends a server's control frame. The bytes of the payload beyond [`MAX_CONTROL_BYTES`] are cut off.
pub fn put_control(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    let payload = &payload[..payload.len().min(MAX_CONTROL_BYTES)];
    put_head(opcode, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends a client's frame, which is masked and not fragmented.
pub fn put_masked(opcode: Opcode, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    out.reserve(MAX_CLIENT_HEAD_BYTES + payload.len());
    put_length(opcode, MASKED, payload.len(), out);
    out.extend(mask);
    let payload_at = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[payload_at..], mask, 0);
}

/// Returns the payload of a close frame. A reason that is too long is cut off.
#[must_use]
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let reason = &reason[..reason.floor_char_boundary(MAX_CONTROL_BYTES - 2)];
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

/// Returns the code and the reason in the payload of a close frame, or `None` if the payload is empty
/// (sections 5.5.1 and 7.4).
///
/// # Errors
/// Returns a [`ProtocolError`] if the code is none that may be sent, or if the reason is not UTF-8.
pub fn parse_close(payload: &[u8]) -> Result<Option<(u16, &str)>, ProtocolError> {
    match payload {
        [] => Ok(None),
        [high, low, reason @ ..] => {
            let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError::NotUtf8)?;
            match u16::from_be_bytes([*high, *low]) {
                code @ (1000..=1003 | 1007..=1013 | 3000..=4999) => Ok(Some((code, reason))),
                _ => Err(ProtocolError::Rule("the close code is none that may be sent")),
            }
        }
        [_] => Err(ProtocolError::Rule("a close code has two bytes")),
    }
}
