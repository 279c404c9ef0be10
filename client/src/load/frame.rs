//! WebSocket frames (RFC 6455, section 5.2): built beforehand, and scanned for where they end.
//!
//! A client has to mask what it sends. The key 0 does that and leaves every byte as it is, so a frame is built once and its
//! number patched in. Frames of a server are not masked: their payload is read where it lies.

use anyhow::bail;

use super::carry::Carry;
use super::template::{Payload, Template};
use crate::packet::{HEADER_BYTES, Packet};

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// The longest payload that the second byte of a header says itself.
const SHORT: usize = 125;
/// The length follows in two bytes.
const LENGTH_16: u8 = 126;
/// The length follows in eight bytes.
const LENGTH_64: u8 = 127;

/// Larger frames are taken for a stream that has gone out of step.
const MAX_FRAME_BYTES: u64 = 1 << 30;

/// A frame of the gateway.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong,
    /// Code and reason, if there are any.
    Close(Option<(u16, &'a [u8])>),
}

/// A packet as a client sends it.
pub(super) fn packet(route: u8, payload: &Payload) -> Template {
    let packet = Packet::request(0, route, payload.bytes.clone()).encode();
    let bytes = masked(BINARY, &packet);
    let seq_at = bytes.len() - packet.len();
    Template { seq_at: Some(seq_at), number_at: payload.number_at.map(|at| seq_at + HEADER_BYTES + at), bytes }
}

/// The answer to a ping.
pub(super) fn pong(payload: &[u8]) -> Vec<u8> {
    masked(PONG, payload)
}

/// "Normal closure".
pub(super) fn close() -> Vec<u8> {
    masked(CLOSE, &1000_u16.to_be_bytes())
}

fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + payload.len());
    frame.push(FIN | opcode);
    if payload.len() <= SHORT {
        frame.push(MASKED | payload.len() as u8);
    } else if let Ok(length) = u16::try_from(payload.len()) {
        frame.push(MASKED | LENGTH_16);
        frame.extend_from_slice(&length.to_be_bytes());
    } else {
        frame.push(MASKED | LENGTH_64);
        frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// Finds the frames in what a gateway sends.
#[derive(Default)]
pub(super) struct Scanner(Carry);

impl Scanner {
    /// Calls `on_frame` with each frame that `piece` completes. An error is its own, or says what is no frame of a gateway.
    pub(super) fn feed(
        &mut self,
        piece: &[u8],
        mut on_frame: impl FnMut(Frame<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.0.feed(piece, |bytes| {
            let Some((frame, length)) = parse(bytes)? else { return Ok(None) };
            on_frame(frame)?;
            Ok(Some(length))
        })
    }
}

/// The frame that `bytes` begins with, and the length of both header and payload. None if the rest of it has still to come.
pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<Option<(Frame<'_>, usize)>> {
    let Some(&[first, second]) = bytes.first_chunk() else { return Ok(None) };
    if second & MASKED != 0 {
        bail!("what the gateway sends is no WebSocket: a masked frame");
    }
    let (header, length) = match second {
        LENGTH_16 => {
            let Some(&[_, _, high, low]) = bytes.first_chunk() else { return Ok(None) };
            (4, u64::from(u16::from_be_bytes([high, low])))
        }
        LENGTH_64 => {
            let Some(&[_, _, ref length @ ..]) = bytes.first_chunk::<10>() else { return Ok(None) };
            (10, u64::from_be_bytes(*length))
        }
        short => (2, u64::from(short)),
    };
    if length > MAX_FRAME_BYTES {
        bail!("what the gateway sends is no WebSocket: a frame of {length} bytes");
    }
    // No more than MAX_FRAME_BYTES.
    let end = header + length as usize;
    let Some(payload) = bytes.get(header..end) else { return Ok(None) };
    Ok(Some((frame(first, payload)?, end)))
}

fn frame(first: u8, payload: &[u8]) -> anyhow::Result<Frame<'_>> {
    const FIN_BINARY: u8 = FIN | BINARY;
    const FIN_PING: u8 = FIN | PING;
    const FIN_PONG: u8 = FIN | PONG;
    const FIN_CLOSE: u8 = FIN | CLOSE;
    match first {
        FIN_BINARY => Ok(Frame::Binary(payload)),
        FIN_PING => Ok(Frame::Ping(payload)),
        FIN_PONG => Ok(Frame::Pong),
        FIN_CLOSE => {
            Ok(Frame::Close(payload.split_first_chunk().map(|(code, reason)| (u16::from_be_bytes(*code), reason))))
        }
        _ => bail!("a gateway sends binary messages in one frame each; this one begins with 0x{first:02x}"),
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::load::carry::cuts;

    /// An unmasked frame, as a server sends it.
    fn served(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = masked(opcode, payload);
        let key_at = frame.len() - payload.len() - 4;
        frame.drain(key_at..key_at + 4);
        frame[1] &= !MASKED;
        frame
    }

    #[track_caller]
    fn scanned(pieces: &[&[u8]]) -> Vec<String> {
        let (mut scanner, mut frames) = (Scanner::default(), Vec::new());
        for piece in pieces {
            let on_frame = |frame: Frame<'_>| {
                frames.push(format!("{frame:?}"));
                Ok(())
            };
            scanner.feed(piece, on_frame).unwrap();
        }
        frames
    }

    #[test]
    fn however_the_stream_is_cut_the_frames_are_the_same() {
        let mut stream = Vec::new();
        for length in [0, 1, 125, 126, 127, 300] {
            stream.extend(served(BINARY, &vec![length as u8; length]));
        }
        stream.extend([served(PING, b"there?"), served(PONG, b""), served(CLOSE, b"\x03\xe8bye")].concat());
        stream.extend(served(CLOSE, b""));
        let whole = scanned(&[&stream]);
        assert_eq!(whole.len(), 10);
        assert_eq!(
            whole[6..9],
            [
                format!("{:?}", Frame::Ping(b"there?")),
                format!("{:?}", Frame::Pong),
                format!("{:?}", Frame::Close(Some((1000, b"bye")))),
            ]
        );
        for pieces in cuts(&stream) {
            assert_eq!(scanned(&pieces), whole);
        }
    }

    #[test]
    fn long_frames_are_cut_as_well() {
        let lengths = [65_535, 65_536];
        let stream = lengths.map(|length| served(BINARY, &vec![7; length])).concat();
        for pieces in cuts(&stream).into_iter().step_by(40) {
            let (mut scanner, mut seen) = (Scanner::default(), Vec::new());
            for piece in pieces {
                let on_frame = |frame: Frame<'_>| {
                    let Frame::Binary(payload) = frame else { bail!("{frame:?}") };
                    seen.push(payload.len());
                    Ok(())
                };
                scanner.feed(piece, on_frame).unwrap();
            }
            assert_eq!(seen, lengths);
        }
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], why: &str) {
        let refusal = Scanner::default().feed(bytes, |_| Ok(())).unwrap_err().to_string();
        assert!(refusal.contains(why), "{refusal}");
    }

    #[test]
    fn what_no_gateway_sends_is_refused() {
        check_refused(&masked(BINARY, b"x"), "masked");
        check_refused(b"\x02\x01x", "0x02");
        check_refused(b"\x80\x01x", "0x80");
        check_refused(b"\x81\x01x", "0x81");
        check_refused(b"\xc2\x01x", "0xc2");
        check_refused(b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", "18446744073709551615 bytes");
    }

    #[tokio::test]
    async fn a_websocket_library_reads_what_is_built() {
        use futures_util::StreamExt;
        let payload = |length| Payload { bytes: vec![7; length], number_at: None };
        let mut stream = Vec::new();
        let lengths = [0, 117, 118, 65_527, 65_528];
        for (number, length) in lengths.into_iter().enumerate() {
            packet(3, &payload(length)).append(number as u64, &mut stream);
        }
        stream.extend(pong(b"here"));
        stream.extend(close());
        let io = std::io::Cursor::new(stream);
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        for (number, length) in lengths.into_iter().enumerate() {
            let Some(Ok(Message::Binary(message))) = socket.next().await else { panic!("packet {number}") };
            let expected = Packet::request(number as u32, 3, payload(length).bytes);
            assert_eq!(Packet::decode(&message), Some(expected));
        }
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("here".into()));
        let Some(Ok(Message::Close(Some(frame)))) = socket.next().await else { panic!("close") };
        assert_eq!(u16::from(frame.code), 1000);
    }
}
