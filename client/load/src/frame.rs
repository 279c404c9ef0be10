//! The WebSocket frames of the load: built beforehand, and found in the stream of a gateway.
//!
//! A client has to mask its frames. A mask of zeros leaves every byte as it is, so a frame is built once and its number
//! is written into it. A gateway's frames are not masked, so their payloads are read in place.

use anyhow::{Context, bail, ensure};
use gateway_wire::packet::{HEADER_LEN, Packet};
use gateway_wire::websocket::{self, Head, Opcode, Sender};

use crate::carry::Carry;
use crate::template::{Payload, Template};

/// The mask of every frame.
const MASK: [u8; 4] = [0; 4];

/// The largest frame of a gateway, in bytes. A larger one means that the position in the stream is lost.
const MAX_FRAME_BYTES: u64 = 1 << 30;

/// A frame of the gateway.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// A whole binary message.
    Binary(&'a [u8]),
    /// A ping with this payload.
    Ping(&'a [u8]),
    /// A pong.
    Pong,
    /// A close frame with this code and reason, or with neither.
    Close(Option<(u16, &'a str)>),
}

/// Builds the frame of a packet.
pub(crate) fn packet(route: u8, payload: &Payload) -> Template {
    let packet = Packet::request(0, route, payload.bytes.clone()).encode();
    let bytes = masked(Opcode::Binary, &packet);
    let seq_at = bytes.len() - packet.len();
    let number_at = payload.number_at.map(|at| seq_at + HEADER_LEN + at);
    Template { seq_at: Some(seq_at), number_at, form: payload.form, bytes }
}

/// Builds the answer to a ping.
pub(crate) fn pong(payload: &[u8]) -> Vec<u8> {
    masked(Opcode::Pong, payload)
}

/// Builds a close frame with the code of a normal closure.
pub(crate) fn close() -> Vec<u8> {
    masked(Opcode::Close, &websocket::close_payload(1000, ""))
}

fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    websocket::put_masked(opcode, payload, MASK, &mut frame);
    frame
}

/// Finds the frames in the stream of a gateway.
#[derive(Default)]
pub(crate) struct Scanner(Carry);

impl Scanner {
    /// Calls `on_frame` with each frame that `piece` completes. Fails if `on_frame` fails, or if the bytes are no
    /// frames of a gateway.
    pub(crate) fn feed(
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

/// Returns the frame that `bytes` begins with and the length of its header and payload, or `None` if the frame is not
/// whole yet.
pub(crate) fn parse(bytes: &[u8]) -> anyhow::Result<Option<(Frame<'_>, usize)>> {
    let head = Head::parse(bytes, Sender::Server).context("what the gateway sends is no WebSocket")?;
    let Some(head) = head else { return Ok(None) };
    ensure!(head.len <= MAX_FRAME_BYTES, "what the gateway sends is no WebSocket: a frame of {} bytes", head.len);
    // The length is at most MAX_FRAME_BYTES, which is a usize.
    let end = head.size + head.len as usize;
    let Some(payload) = bytes.get(head.size..end) else { return Ok(None) };
    Ok(Some((frame(head, payload)?, end)))
}

fn frame(head: Head, payload: &[u8]) -> anyhow::Result<Frame<'_>> {
    match head.opcode {
        Opcode::Binary if head.last => Ok(Frame::Binary(payload)),
        Opcode::Ping => Ok(Frame::Ping(payload)),
        Opcode::Pong => Ok(Frame::Pong),
        Opcode::Close => {
            let reason = websocket::parse_close(payload).context("what the gateway sends is no WebSocket")?;
            Ok(Frame::Close(reason))
        }
        Opcode::Binary | Opcode::Text | Opcode::Continuation => {
            bail!("a gateway sends each message as one binary frame, and this frame is text or a fragment")
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::carry::cuts;
    use crate::template::Form;

    /// A frame as a server sends it.
    fn served(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        websocket::put_head(opcode, payload.len(), &mut frame);
        [&frame, payload].concat()
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
            stream.extend(served(Opcode::Binary, &vec![length as u8; length]));
        }
        stream.extend(
            [served(Opcode::Ping, b"there?"), served(Opcode::Pong, b""), served(Opcode::Close, b"\x03\xe8bye")]
                .concat(),
        );
        stream.extend(served(Opcode::Close, b""));
        let whole = scanned(&[&stream]);
        assert_eq!(whole.len(), 10);
        assert_eq!(
            whole[6..9],
            [
                format!("{:?}", Frame::Ping(b"there?")),
                format!("{:?}", Frame::Pong),
                format!("{:?}", Frame::Close(Some((1000, "bye")))),
            ]
        );
        for pieces in cuts(&stream) {
            assert_eq!(scanned(&pieces), whole);
        }
    }

    #[test]
    fn long_frames_are_cut_as_well() {
        let lengths = [65_535, 65_536];
        let stream = lengths.map(|length| served(Opcode::Binary, &vec![7; length])).concat();
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
        let refusal = format!("{:#}", Scanner::default().feed(bytes, |_| Ok(())).unwrap_err());
        assert!(refusal.contains(why), "{refusal}");
    }

    #[test]
    fn what_no_gateway_sends_is_refused() {
        check_refused(&masked(Opcode::Binary, b"x"), "no WebSocket: a server's frames are never masked");
        check_refused(b"\xc2\x01x", "no WebSocket: a reserved bit is set");
        for first in [0x02, 0x80, 0x81] {
            check_refused(&[first, 1, b'x'], "text or a fragment");
        }
        check_refused(b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", "18446744073709551615 bytes");
    }

    #[tokio::test]
    async fn a_websocket_library_reads_what_is_built() {
        use futures_util::StreamExt;
        let payload = |length| Payload { bytes: vec![7; length], number_at: None, form: Form::Varint };
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
            assert_eq!(Packet::parse(message), Ok(expected));
        }
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("here".into()));
        let Some(Ok(Message::Close(Some(frame)))) = socket.next().await else { panic!("close") };
        assert_eq!(u16::from(frame.code), 1000);
    }
}
