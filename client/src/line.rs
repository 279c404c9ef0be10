//! The meaning of a typed line.

/// A typed line, parsed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// The line has nothing but white space.
    Blank,
    /// The line is `/quit`.
    Quit,
    /// The line is a text to send.
    Say(Saying<'a>),
    /// The line cannot be sent, and this says why.
    Wrong(String),
}

/// A text and its receiver. If there is neither a receiver nor a channel, the backend decides who gets the text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Saying<'a> {
    /// The user id in `@2 hello`, or 0.
    pub(crate) receiver_id: i32,
    /// The channel id in `#7 hello`, or 0.
    pub(crate) channel_id: i32,
    pub(crate) content: &'a str,
}

impl<'a> Line<'a> {
    /// Parses a line, with or without its line end. Only `@` or `#` with a number is an address: `@ann hello` and
    /// `#hashtag` are plain text.
    pub(crate) fn parse(line: &'a [u8]) -> Self {
        let Ok(line) = std::str::from_utf8(line) else {
            return Self::Wrong("it is not UTF-8".into());
        };
        let line = line.trim_end_matches(['\r', '\n']);
        match line.trim() {
            "" => Self::Blank,
            "/quit" => Self::Quit,
            _ => Self::addressed(line),
        }
    }

    fn addressed(line: &'a str) -> Self {
        let (address, content) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let content = content.trim_start();
        if let Some(id) = number(address, '@') {
            match positive(id) {
                Some(receiver_id) => Self::say(Saying { receiver_id, content, ..Saying::default() }),
                None => Self::Wrong(format!("user ids are 1 to {}", i32::MAX)),
            }
        } else if let Some(id) = number(address, '#') {
            match positive(id) {
                Some(channel_id) => Self::say(Saying { channel_id, content, ..Saying::default() }),
                None => Self::Wrong(format!("channel ids are 1 to {}", i32::MAX)),
            }
        } else {
            Self::Say(Saying { content: line, ..Saying::default() })
        }
    }

    fn say(saying: Saying<'a>) -> Self {
        if saying.content.is_empty() { Self::Wrong("the text is missing".into()) } else { Self::Say(saying) }
    }
}

fn number(address: &str, sign: char) -> Option<&str> {
    let digits = address.strip_prefix(sign)?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(digits)
}

fn positive(digits: &str) -> Option<i32> {
    digits.parse().ok().filter(|&id| id > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, receiver_id: i32, channel_id: i32, content: &str) {
        assert_eq!(Line::parse(line.as_bytes()), Line::Say(Saying { receiver_id, channel_id, content }));
    }

    #[test]
    fn a_number_after_the_sign_addresses() {
        check("hello", 0, 0, "hello");
        check("@2 hello", 2, 0, "hello");
        check("@2\thello @3", 2, 0, "hello @3");
        check("#7  hello there \r\n", 0, 7, "hello there ");
        check("@2147483647 hi", i32::MAX, 0, "hi");
    }

    #[test]
    fn other_signs_are_text() {
        check("@ann hello", 0, 0, "@ann hello");
        check("#hashtag", 0, 0, "#hashtag");
        check("@ 2", 0, 0, "@ 2");
        check("@-2 hi", 0, 0, "@-2 hi");
        check(" @2 hi", 0, 0, " @2 hi");
        check("/quit it", 0, 0, "/quit it");
    }

    #[test]
    fn some_lines_are_not_for_sending() {
        assert_eq!(Line::parse(b" \r\n"), Line::Blank);
        assert_eq!(Line::parse(b"/quit\r"), Line::Quit);
    }

    #[track_caller]
    fn check_wrong(line: &[u8], why: &str) {
        assert_eq!(Line::parse(line), Line::Wrong(why.into()));
    }

    #[test]
    fn a_wrong_line_says_why() {
        check_wrong(b"@0 hi", "user ids are 1 to 2147483647");
        check_wrong(b"@2147483648 hi", "user ids are 1 to 2147483647");
        check_wrong(b"#0 hi", "channel ids are 1 to 2147483647");
        check_wrong(b"@2", "the text is missing");
        check_wrong(b"#7  ", "the text is missing");
        check_wrong(b"\xff", "it is not UTF-8");
    }
}
