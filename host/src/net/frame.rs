//! Frames of the WebSocket protocol (RFC 6455, section 5), pure: no socket, no session.
//!
//! Not a library's: those reserve the whole length that a frame announces before any of it has come, so 14 bytes of a stranger cost them
//! 16 MiB; and they hold a buffer for each connection, busy or not. The property tests of `receiver.rs` compare with tungstenite.

/// The largest payload of a control frame.
pub const MAX_CONTROL_BYTES: usize = 125;

/// The largest header of a server's frame.
pub const MAX_SERVER_HEAD_BYTES: usize = 10;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// More of a message that an earlier frame began.
    Continuation = 0x0,
    /// A message of text, or the beginning of one.
    Text = 0x1,
    /// A binary message, or the beginning of one.
    Binary = 0x2,
    /// The end of the connection.
    Close = 0x8,
    /// To be answered by a pong.
    Ping = 0x9,
    /// The answer to a ping, or a sign of life.
    Pong = 0xa,
}

impl Opcode {
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

    /// Whether it is a close, a ping or a pong.
    #[must_use]
    pub fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// What no client may send.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// It breaks the protocol: close code 1002.
    #[error("{0}")]
    Protocol(&'static str),
    /// Text that is no UTF-8: close code 1007.
    #[error("text has to be UTF-8")]
    NotUtf8,
    /// A larger message than is configured: close code 1009.
    #[error("a message of {bytes} bytes is over max_message_bytes, {most}")]
    TooLarge {
        /// The length of the message, as far as it was announced.
        bytes: u64,
        /// The configured bound.
        most: usize,
    },
    /// All connections together receive more than is configured, and this one the most of it: close code 1009.
    #[error("the gateway receives too much at once")]
    OverBudget,
    /// More frames that carry no packet than are configured: close code 1008.
    #[error("too many frames that carry no packet")]
    Flood,
}

/// The header of a client's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The message ends with this frame.
    pub last: bool,
    /// What the frame is for.
    pub opcode: Opcode,
    /// The bytes of the payload.
    pub len: u64,
    /// The payload is masked with it.
    pub mask: [u8; 4],
    /// The bytes of the header.
    pub size: usize,
}

impl Head {
    /// The header that the bytes begin with. Nothing if it is not complete.
    ///
    /// # Errors
    /// [`Violation::Protocol`] for what no client's frame begins with.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let &[first, second, ..] = bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Violation::Protocol("a reserved bit is set"));
        }
        let opcode = Opcode::parse(first & 0x0f).ok_or(Violation::Protocol("an opcode is reserved"))?;
        if second & 0x80 == 0 {
            return Err(Violation::Protocol("a client's frames have to be masked"));
        }
        let (len, after_len) = match second & 0x7f {
            126 => (chunk(bytes, 2).map(|len| u64::from(u16::from_be_bytes(len))), 4),
            127 => (chunk(bytes, 2).map(u64::from_be_bytes), 10),
            len => (Some(u64::from(len)), 2),
        };
        let last = first & 0x80 != 0;
        if opcode.is_control() && !last {
            return Err(Violation::Protocol("a control frame is never fragmented"));
        }
        if opcode.is_control() && second & 0x7f > 125 {
            return Err(Violation::Protocol("a control frame has at most 125 bytes"));
        }
        let (Some(len), Some(mask)) = (len, chunk(bytes, after_len)) else { return Ok(None) };
        Ok(Some(Self { last, opcode, len, mask, size: after_len + 4 }))
    }
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied()
}

/// Takes the mask off a part of a payload that begins `offset` bytes into it.
pub fn unmask(part: &mut [u8], mut mask: [u8; 4], offset: u64) {
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
pub fn put_head(opcode: Opcode, len: usize, out: &mut Vec<u8>) {
    let first = 0x80 | opcode as u8;
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..126), _) => out.extend([first, len]),
        (_, Ok(len)) => {
            out.extend([first, 126]);
            out.extend(len.to_be_bytes());
        }
        _ => {
            out.extend([first, 127]);
            out.extend((len as u64).to_be_bytes());
        }
    }
}

/// Appends a server's control frame. What is over 125 bytes is cut off.
pub fn put_control(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    let payload = &payload[..payload.len().min(MAX_CONTROL_BYTES)];
    put_head(opcode, payload.len(), out);
    out.extend_from_slice(payload);
}

/// The payload of a close frame. A reason that is too long is cut off.
#[must_use]
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let reason = &reason[..reason.floor_char_boundary(MAX_CONTROL_BYTES - 2)];
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

/// Checks the payload of a client's close frame: nothing, or a code that may be sent and a reason in UTF-8 (5.5.1, 7.4).
///
/// # Errors
/// [`Violation`] if it is anything else.
pub fn check_close(payload: &[u8]) -> Result<(), Violation> {
    match payload {
        [] => Ok(()),
        [high, low, reason @ ..] => {
            std::str::from_utf8(reason).map_err(|_| Violation::NotUtf8)?;
            match u16::from_be_bytes([*high, *low]) {
                1000..=1003 | 1007..=1013 | 3000..=4999 => Ok(()),
                _ => Err(Violation::Protocol("the close code is none that may be sent")),
            }
        }
        [_] => Err(Violation::Protocol("a close code has two bytes")),
    }
}
