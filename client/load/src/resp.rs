//! The Redis protocol of the load: publishes built beforehand, and frames found in the stream of Redis.
//!
//! The load never asks Redis for RESP3, so a message to a subscriber is an array and not a push.

use gateway_wire::resp::{self, Frame, Parsed};

use crate::carry::Carry;
use crate::template::{Payload, Template};

/// Builds `PUBLISH topic payload`.
pub(crate) fn publish(topic: &str, payload: &Payload) -> Template {
    let mut bytes = Vec::new();
    resp::publish(&mut bytes, topic.as_bytes(), &payload.bytes);
    let payload_at = bytes.len() - payload.bytes.len() - b"\r\n".len();
    Template { seq_at: None, number_at: payload.number_at.map(|at| payload_at + at), form: payload.form, bytes }
}

/// Finds the frames in the stream of Redis.
#[derive(Default)]
pub(crate) struct Scanner(Carry);

impl Scanner {
    /// Calls `on_frame` with each frame that `piece` completes. Fails if `on_frame` fails, or if the bytes are no
    /// frames of Redis.
    pub(crate) fn feed(
        &mut self,
        piece: &[u8],
        mut on_frame: impl FnMut(Frame<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.0.feed(piece, |bytes| {
            let Parsed::Whole(frame, length) = resp::parse(bytes)? else { return Ok(None) };
            on_frame(frame)?;
            Ok(Some(length))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::carry::cuts;
    use crate::template::{Form, first_number};

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
        let mut stream = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nt\r\n:1\r\n+PONG\r\n-ERR no\r\n:17\r\n".to_vec();
        let payloads = [&b""[..], b"x", b"\r\n$5\r\n*3\r\n", &[0xff; 300]];
        // A message to a subscriber has the form of a command.
        payloads.iter().for_each(|payload| resp::command(&mut stream, &[b"message", b"t", payload]));
        let whole = scanned(&[&stream]);
        assert_eq!(whole.len(), 8);
        assert_eq!(whole[3], format!("{:?}", Frame::Integer(17)));
        for (frame, payload) in whole[4..].iter().zip(payloads) {
            let parts = [Frame::Text(b"message"), Frame::Text(b"t"), Frame::Text(payload)];
            assert_eq!(*frame, format!("{:?}", Frame::List(parts.into())));
        }
        for pieces in cuts(&stream) {
            assert_eq!(scanned(&pieces), whole);
        }
    }

    #[test]
    fn a_publish_is_numbered_in_its_payload() {
        let number = first_number() as u64;
        let mut varint = Vec::new();
        prost::encoding::encode_varint(number + 5, &mut varint);
        let payload = Payload { bytes: b"<.......>".into(), number_at: Some(1), form: Form::Varint };
        let mut sent = Vec::new();
        publish("broadcast", &payload).append(5, &mut sent);
        let expected = [b"*3\r\n$7\r\nPUBLISH\r\n$9\r\nbroadcast\r\n$9\r\n<", &varint[..], b">\r\n"].concat();
        assert_eq!(sent, expected);
    }
}
