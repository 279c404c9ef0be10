//! RESP, the Redis serialization protocol, as far as publishing and subscribing need it: commands out, replies in.
//!
//! The replies are those of RESP3. RESP2 is a part of RESP3, so a connection that never asked for RESP3 is read as
//! well. Strings are read in place. The only allocation is a list for each aggregate.

use std::str;

/// The longest string that Redis ever sends, in bytes (`proto-max-bulk-len`).
const MAX_STRING_BYTES: usize = 512 << 20;

/// The longest line in bytes. The longest lines are those of errors.
const MAX_LINE_BYTES: usize = 64 << 10;

/// The most elements of an aggregate. The aggregates that a gateway gets have a few.
const MAX_ELEMENTS: usize = 1 << 16;

/// The deepest nesting of aggregates.
const MAX_DEPTH: usize = 8;

/// The end of a line and of a string.
const END: &[u8] = b"\r\n";

/// A reply or a push of Redis.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame<'a> {
    /// A simple, bulk or verbatim string, or a value that is written like one.
    Text(&'a [u8]),
    /// The reason why a command was refused.
    Error(&'a [u8]),
    /// An integer.
    Integer(i64),
    /// The absence of a value.
    Null,
    /// An array or a set, or the keys and values of a map by turns.
    List(Vec<Self>),
    /// A frame that answers no command: a message, or the confirmation of a subscription.
    Push(Vec<Self>),
}

/// The error for bytes that no Redis sends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not RESP3, the protocol of Redis 6 and later: {0}")]
pub struct Malformed(&'static str);

/// Appends a command.
#[inline]
pub fn command(out: &mut Vec<u8>, parts: &[&[u8]]) {
    length(out, b'*', parts.len());
    for part in parts {
        bulk(out, part);
    }
}

/// Appends the command `PUBLISH`. It has a function of its own, since each message is one such command.
#[inline]
pub fn publish(out: &mut Vec<u8>, topic: &[u8], body: &[u8]) {
    out.reserve(64 + topic.len() + body.len());
    out.extend_from_slice(b"*3\r\n$7\r\nPUBLISH\r\n");
    bulk(out, topic);
    bulk(out, body);
}

#[inline]
fn bulk(out: &mut Vec<u8>, part: &[u8]) {
    length(out, b'$', part.len());
    out.extend_from_slice(part);
    out.extend_from_slice(END);
}

#[inline]
fn length(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.extend_from_slice(END);
}

/// The outcome of [`parse`].
#[derive(Debug, PartialEq)]
pub enum Parsed<'a> {
    /// The input begins with this frame, which has this many bytes.
    Whole(Frame<'a>, usize),
    /// The input is the beginning of a frame.
    Partial {
        /// The bytes that are missing at the least.
        missing: usize,
    },
}

/// Parses the frame at the beginning of `input`.
///
/// # Errors
/// Returns [`Malformed`] if no frame begins like this.
pub fn parse(input: &[u8]) -> Result<Parsed<'_>, Malformed> {
    let mut rest = input;
    match frame(&mut rest, MAX_DEPTH) {
        Ok(frame) => Ok(Parsed::Whole(frame, input.len() - rest.len())),
        Err(Stop::Missing(missing)) => Ok(Parsed::Partial { missing }),
        Err(Stop::Malformed(malformed)) => Err(malformed),
    }
}

/// The reason why parsing stops before the end of a frame.
enum Stop {
    /// At least this many bytes have not arrived yet.
    Missing(usize),
    Malformed(Malformed),
}

fn malformed(why: &'static str) -> Stop {
    Stop::Malformed(Malformed(why))
}

fn frame<'a>(rest: &mut &'a [u8], depth: usize) -> Result<Frame<'a>, Stop> {
    let (kind, head) = line(rest)?.split_first().ok_or(malformed("an empty line"))?;
    Ok(match kind {
        b'+' | b',' | b'(' | b'#' => Frame::Text(head),
        b'-' => Frame::Error(head),
        b':' => Frame::Integer(number(head)?),
        b'_' => Frame::Null,
        b'$' | b'*' if head == b"-1" => Frame::Null,
        b'$' | b'=' => Frame::Text(text(rest, at_most(head, MAX_STRING_BYTES)?)?),
        b'!' => Frame::Error(text(rest, at_most(head, MAX_STRING_BYTES)?)?),
        b'*' | b'~' => Frame::List(list(rest, at_most(head, MAX_ELEMENTS)?, depth)?),
        b'%' => Frame::List(list(rest, 2 * at_most(head, MAX_ELEMENTS)?, depth)?),
        b'>' => Frame::Push(list(rest, at_most(head, MAX_ELEMENTS)?, depth)?),
        _ => return Err(malformed("an unknown type")),
    })
}

fn list<'a>(rest: &mut &'a [u8], len: usize, depth: usize) -> Result<Vec<Frame<'a>>, Stop> {
    let depth = depth.checked_sub(1).ok_or(malformed("aggregates within aggregates"))?;
    // An announced element takes memory once it has arrived.
    let mut list = Vec::with_capacity(len.min(4));
    for _ in 0..len {
        list.push(frame(rest, depth)?);
    }
    Ok(list)
}

fn text<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Stop> {
    let whole = len + END.len();
    let (text, after) = rest.split_at_checked(whole).ok_or_else(|| Stop::Missing(whole - rest.len()))?;
    *rest = after;
    text.strip_suffix(END).ok_or(malformed("a string without an end"))
}

/// Takes a line, and returns it without its end.
fn line<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Stop> {
    let Some(at) = rest.iter().position(|byte| *byte == b'\n') else {
        return Err(if rest.len() > MAX_LINE_BYTES { malformed("a line without an end") } else { Stop::Missing(1) });
    };
    let (line, after) = rest.split_at(at + 1);
    *rest = after;
    line.strip_suffix(END).ok_or(malformed("a line without an end"))
}

fn at_most(digits: &[u8], most: usize) -> Result<usize, Stop> {
    let length = usize::try_from(number(digits)?).ok().filter(|length| *length <= most);
    length.ok_or(malformed("a length out of bounds"))
}

fn number(digits: &[u8]) -> Result<i64, Stop> {
    str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(malformed("not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_command_is_an_array_of_strings() {
        let mut out = Vec::new();
        command(&mut out, &[b"PUBLISH", b"t", b"\r\n"]);
        assert_eq!(out, b"*3\r\n$7\r\nPUBLISH\r\n$1\r\nt\r\n$2\r\n\r\n\r\n");
        let mut published = Vec::new();
        publish(&mut published, b"t", b"\r\n");
        assert_eq!(published, out);
    }

    #[track_caller]
    fn check(input: &[u8], frame: &Frame<'_>) {
        let mut more = input.to_vec();
        more.extend_from_slice(b":1\r\n");
        assert_eq!(parse(&more), Ok(Parsed::Whole(frame.clone(), input.len())));
        for len in 0..input.len() {
            let Ok(Parsed::Partial { missing }) = parse(&input[..len]) else { panic!("whole with {len} bytes of it") };
            assert!((1..=input.len() - len).contains(&missing), "{missing} are missing behind {len} bytes");
        }
    }

    #[test]
    fn a_frame_is_read_once_it_is_whole() {
        check(b":-7\r\n", &Frame::Integer(-7));
        check(b"+PONG\r\n", &Frame::Text(b"PONG"));
        check(b"-ERR no\r\n", &Frame::Error(b"ERR no"));
        check(b"$-1\r\n", &Frame::Null);
        check(b"$2\r\n\r\n\r\n", &Frame::Text(b"\r\n"));
        check(b"%1\r\n+a\r\n:1\r\n", &Frame::List(vec![Frame::Text(b"a"), Frame::Integer(1)]));
        let message = [b"message".as_slice(), b"broadcast", b"\0\xff"].map(Frame::Text);
        check(b">3\r\n$7\r\nmessage\r\n$9\r\nbroadcast\r\n$2\r\n\0\xff\r\n", &Frame::Push(message.to_vec()));
    }

    #[track_caller]
    fn refused(input: &[u8], because: &str) {
        assert_eq!(parse(input).map_err(|error| error.0), Err(because));
    }

    #[test]
    fn what_no_redis_says_is_told_apart() {
        refused(b"HTTP/1.1 400\r\n", "an unknown type");
        refused(b"\r\n", "an empty line");
        refused(b"+x\n", "a line without an end");
        refused(&[b'+'; MAX_LINE_BYTES + 1], "a line without an end");
        refused(b":x\r\n", "not a number");
        refused(b"$99999999999\r\n", "a length out of bounds");
        refused(b"*-2\r\n", "a length out of bounds");
        refused(b"$1\r\nxyz", "a string without an end");
        refused(&b"*1\r\n".repeat(MAX_DEPTH + 1), "aggregates within aggregates");
    }

    #[test]
    fn the_bytes_of_a_string_are_known_to_be_missing_from_its_length_on() {
        assert_eq!(parse(b">3\r\n$7\r\nmessage\r\n$1\r\nt\r\n$1000\r\nxyz"), Ok(Parsed::Partial { missing: 999 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_an_error_or_not_whole(bytes: Vec<u8>) {
            match parse(&bytes) {
                Ok(Parsed::Whole(_, len)) => prop_assert!((3..=bytes.len()).contains(&len)),
                Ok(Parsed::Partial { missing }) => prop_assert!(missing > 0),
                Err(_) => {}
            }
        }

        #[test]
        fn a_command_reads_back(parts in proptest::collection::vec(any::<Vec<u8>>(), 1..5)) {
            let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
            let mut out = Vec::new();
            command(&mut out, &parts);
            let list = Frame::List(parts.into_iter().map(Frame::Text).collect());
            prop_assert_eq!(parse(&out), Ok(Parsed::Whole(list, out.len())));
        }
    }
}
