//! Redis' protocol, RESP2, as far as publishing and subscribing need it.

use anyhow::bail;

use super::carry::Carry;
use super::template::{Payload, Template};

/// A push of a subscription has three elements; there is no longer array here.
const MAX_ELEMENTS: usize = 3;

/// Redis' own bound of a string.
const MAX_STRING_BYTES: usize = 512 << 20;

/// What Redis sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    /// To a channel that was subscribed to; there is but one.
    Message(&'a [u8]),
    Subscribed,
    /// `+OK` and the like.
    Status(&'a [u8]),
    Error(&'a [u8]),
    Integer,
    /// Of no interest.
    Other,
}

/// A command of any words.
pub(super) fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        command.extend_from_slice(word);
        command.extend_from_slice(b"\r\n");
    }
    command
}

/// `PUBLISH channel payload`.
pub(super) fn publish(channel: &str, payload: &Payload) -> Template {
    let bytes = command(&[b"PUBLISH", channel.as_bytes(), &payload.bytes]);
    let payload_at = bytes.len() - payload.bytes.len() - b"\r\n".len();
    Template { seq_at: None, number_at: payload.number_at.map(|at| payload_at + at), bytes }
}

/// Finds the replies in what Redis sends.
#[derive(Default)]
pub(super) struct Scanner(Carry);

impl Scanner {
    /// Calls `on_reply` with each reply that `piece` completes. An error is its own, or says what is no RESP2.
    pub(super) fn feed(
        &mut self,
        piece: &[u8],
        mut on_reply: impl FnMut(Reply<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.0.feed(piece, |bytes| {
            let Some((reply, length)) = parse(bytes)? else { return Ok(None) };
            on_reply(reply)?;
            Ok(Some(length))
        })
    }
}

/// A simple value or a string.
#[derive(Clone, Copy)]
enum Value<'a> {
    String(&'a [u8]),
    Status(&'a [u8]),
    Error(&'a [u8]),
    Integer,
}

/// The reply that `bytes` begins with, and its length. None if the rest of it has still to come.
pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<Option<(Reply<'_>, usize)>> {
    if bytes.first() != Some(&b'*') {
        return Ok(value(bytes)?.map(|(value, length)| (of_value(value), length)));
    }
    let Some((count, mut at)) = length(bytes)? else { return Ok(None) };
    if count > MAX_ELEMENTS {
        bail!("Redis sends an array of {count}, which was not asked for");
    }
    let mut elements = [Value::Integer; MAX_ELEMENTS];
    for element in &mut elements[..count] {
        let Some((value, length)) = value(&bytes[at..])? else { return Ok(None) };
        *element = value;
        at += length;
    }
    let reply = match &elements[..count] {
        [Value::String(b"message"), _, Value::String(payload)] => Reply::Message(payload),
        [Value::String(b"subscribe"), ..] => Reply::Subscribed,
        _ => Reply::Other,
    };
    Ok(Some((reply, at)))
}

fn of_value(value: Value<'_>) -> Reply<'_> {
    match value {
        Value::String(_) => Reply::Other,
        Value::Status(text) => Reply::Status(text),
        Value::Error(text) => Reply::Error(text),
        Value::Integer => Reply::Integer,
    }
}

fn value(bytes: &[u8]) -> anyhow::Result<Option<(Value<'_>, usize)>> {
    let Some(kind) = bytes.first() else { return Ok(None) };
    if *kind == b'$' {
        let Some((length, start)) = length(bytes)? else { return Ok(None) };
        let end = start + length;
        let whole = bytes.len() >= end + 2;
        return Ok(whole.then(|| (Value::String(&bytes[start..end]), end + 2)));
    }
    let Some((text, end)) = line(bytes) else { return Ok(None) };
    match kind {
        b'+' => Ok(Some((Value::Status(text), end))),
        b'-' => Ok(Some((Value::Error(text), end))),
        b':' => Ok(Some((Value::Integer, end))),
        other => bail!("what answers is no Redis: a value that begins with 0x{other:02x}"),
    }
}

/// The number on the first line, after the sign of its kind, and where the next line begins.
fn length(bytes: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let Some((digits, end)) = line(bytes) else { return Ok(None) };
    let length = digits.iter().try_fold(0, |length: usize, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        Some(length * 10 + usize::from(digit)).filter(|length| *length <= MAX_STRING_BYTES)
    });
    match length {
        Some(length) if !digits.is_empty() => Ok(Some((length, end))),
        _ => bail!("what answers is no Redis: a length {:?}", String::from_utf8_lossy(digits)),
    }
}

/// The first line without the sign of its kind, and where the next one begins.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.iter().position(|byte| *byte == b'\r')?;
    // What follows is the line feed, once it has come.
    (bytes.len() >= end + 2).then(|| (&bytes[1..end], end + 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::carry::cuts;

    #[track_caller]
    fn scanned(pieces: &[&[u8]]) -> Vec<String> {
        let (mut scanner, mut replies) = (Scanner::default(), Vec::new());
        for piece in pieces {
            let on_reply = |reply: Reply<'_>| {
                replies.push(format!("{reply:?}"));
                Ok(())
            };
            scanner.feed(piece, on_reply).unwrap();
        }
        replies
    }

    /// A push to a subscriber has the form of a command.
    fn message(payload: &[u8]) -> Vec<u8> {
        command(&[b"message", b"game:request:mmo", payload])
    }

    #[test]
    fn however_the_stream_is_cut_the_replies_are_the_same() {
        let mut stream =
            b"*3\r\n$9\r\nsubscribe\r\n$16\r\ngame:request:mmo\r\n:1\r\n+PONG\r\n-ERR no\r\n:17\r\n".to_vec();
        for payload in [&b""[..], b"x", b"\r\n$5\r\n*3\r\n", &[0xff; 300]] {
            stream.extend(message(payload));
        }
        stream.extend(b"$2\r\nhi\r\n*0\r\n");
        let whole = scanned(&[&stream]);
        let expected = [
            Reply::Subscribed,
            Reply::Status(b"PONG"),
            Reply::Error(b"ERR no"),
            Reply::Integer,
            Reply::Message(b""),
            Reply::Message(b"x"),
            Reply::Message(b"\r\n$5\r\n*3\r\n"),
            Reply::Message(&[0xff; 300]),
            Reply::Other,
            Reply::Other,
        ];
        assert_eq!(whole, expected.map(|reply| format!("{reply:?}")));
        for pieces in cuts(&stream) {
            assert_eq!(scanned(&pieces), whole);
        }
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], why: &str) {
        let refusal = Scanner::default().feed(bytes, |_| Ok(())).unwrap_err().to_string();
        assert!(refusal.contains(why), "{refusal}");
    }

    #[test]
    fn what_is_no_resp2_is_refused() {
        check_refused(b"HTTP/1.1 400 Bad Request\r\n", "0x48");
        check_refused(b"$-1\r\n", "\"-1\"");
        check_refused(b"$\r\n", "\"\"");
        check_refused(b"$99999999999999999999\r\n", "\"99999999999999999999\"");
        check_refused(b"*4\r\n", "an array of 4");
    }

    #[test]
    fn a_publish_is_numbered_in_its_payload() {
        let number = super::super::template::first_number() as u64;
        let mut varint = Vec::new();
        prost::encoding::encode_varint(number + 5, &mut varint);
        let payload = Payload { bytes: b"<.......>".into(), number_at: Some(1) };
        let mut sent = Vec::new();
        publish("broadcast", &payload).append(5, &mut sent);
        let expected = [b"*3\r\n$7\r\nPUBLISH\r\n$9\r\nbroadcast\r\n$9\r\n<", &varint[..], b">\r\n"].concat();
        assert_eq!(sent, expected);
        assert_eq!(scanned(&[&sent]), ["Other"]);
    }
}
