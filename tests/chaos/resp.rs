//! What passes between the gateway and Redis, read without being changed.

/// A value of RESP3, as far as anybody wants to know it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Text(&'a [u8]),
    Integer(i64),
    List(Vec<Value<'a>>),
    /// A message, or the confirmation of a subscription.
    Push(Vec<Value<'a>>),
    /// An error, a null, or a kind that is of no interest.
    Other,
}

/// The first value and its length; nothing until all of it is there.
pub(crate) fn parse(input: &[u8]) -> Option<(Value<'_>, usize)> {
    let line_end = input.windows(2).position(|pair| pair == b"\r\n")?;
    let (kind, line) = (input[0], &input[1..line_end]);
    let number = std::str::from_utf8(line).ok().and_then(|line| line.parse::<i64>().ok());
    let rest = line_end + 2;
    match kind {
        b'+' => Some((Value::Text(line), rest)),
        b':' => Some((Value::Integer(number?), rest)),
        b'$' => {
            let Ok(len) = usize::try_from(number?) else { return Some((Value::Other, rest)) };
            Some((Value::Text(input.get(rest..rest + len)?), rest + len + 2)).filter(|(_, end)| *end <= input.len())
        }
        b'*' | b'>' | b'~' | b'%' => {
            let elements = number?.max(0) * if kind == b'%' { 2 } else { 1 };
            let (mut values, mut at) = (Vec::new(), rest);
            for _ in 0..elements {
                let (value, len) = parse(&input[at..])?;
                values.push(value);
                at += len;
            }
            Some((if kind == b'>' { Value::Push(values) } else { Value::List(values) }, at))
        }
        _ => Some((Value::Other, rest)),
    }
}

#[test]
fn a_value_is_read_once_it_is_whole() {
    let publish = b"*3\r\n$7\r\nPUBLISH\r\n$1\r\nt\r\n$2\r\nab\r\n:1\r\n";
    let value = Value::List([&b"PUBLISH"[..], b"t", b"ab"].map(Value::Text).into());
    let len = publish.len() - 4;
    assert_eq!(parse(publish), Some((value, len)));
    assert_eq!(parse(&publish[len..]), Some((Value::Integer(1), 4)));
    (0..len).for_each(|cut| assert_eq!(parse(&publish[..cut]), None));
    assert_eq!(parse(b">1\r\n+subscribe\r\n"), Some((Value::Push(vec![Value::Text(b"subscribe")]), 16)));
    assert_eq!(parse(b"%1\r\n+a\r\n:1\r\n").map(|(_, len)| len), Some(12));
}
