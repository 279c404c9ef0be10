//! The token with which a client claims its session, and what it says about the session.

use crate::{
    delivery::outbox::{Received, Secret},
    net::head::{self, Head},
};
use std::fmt;
use uuid::Uuid;

/// A token. As text, it is the ids of the gateway and of the session, followed by the secret, in 96 hexadecimal digits.
/// It is a client's secret, so it has no `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The gateway that has the session.
    pub gateway: Uuid,
    /// The session.
    pub session: Uuid,
    /// What only the session's client knows.
    pub secret: Secret,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gateway, session, secret } = self;
        write!(f, "{}{}{:032x}", gateway.simple(), session.simple(), u128::from_be_bytes(*secret))
    }
}

impl Token {
    /// Returns the token with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 96 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let number = |digits| u128::from_str_radix(text.get(digits)?, 16).ok();
        Some(Self {
            gateway: Uuid::from_u128(number(0..32)?),
            session: Uuid::from_u128(number(32..64)?),
            secret: number(64..96)?.to_be_bytes(),
        })
    }
}

/// What a client says about the session that it wants to resume.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// The token, or `None` if it is not valid.
    pub token: Option<Token>,
    /// What the client has received in the session.
    pub received: Received,
}

impl Wanted {
    /// Reads the parameters `resume`, `seen` and `replies` of a request. Returns `None` if there is no `resume`.
    #[must_use]
    pub fn of(head: &Head<'_, '_>) -> Option<Self> {
        let parameter = |name: &str| head::parameters(head).find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let token = Token::parse(parameter("resume")?);
        let push = parameter("seen").and_then(decimal).and_then(|number| u32::try_from(number).ok());
        let (push, replies) = match parameter("replies").map(decimal) {
            None => (push, None),
            Some(Some(replies)) => (push, Some(replies)),
            // A client that does not know what it has received gets a new session.
            Some(None) => (None, None),
        };
        Some(Self { token, received: Received { push, replies } })
    }
}

/// Returns the number that the text is in decimal digits, without a sign.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_96_digits() {
        let (gateway, session) = (Uuid::from_u128(1), Uuid::from_u128(0xab));
        let token = Token { gateway, session, secret: [7; 16] };
        let text = token.to_string();
        let secret = "07".repeat(16);
        assert_eq!(text, format!("{}1{}ab{secret}", "0".repeat(31), "0".repeat(30)));
        assert!(Token::parse(&text) == Some(token));
        for wrong in ["", "ab", &text[1..], &format!("{text}0"), &text.replace('7', "g"), &text.replace("0ab", "+ab")] {
            assert!(Token::parse(wrong).is_none(), "{wrong}");
        }
        assert!(Token::parse(&"é".repeat(48)).is_none(), "96 bytes that are no digits");
    }

    #[track_caller]
    fn check(query: &str, push: Option<u32>, replies: Option<u64>) {
        let wanted = head::with_target(&format!("/ws{query}"), b"", Wanted::of).expect("a wish to resume");
        assert_eq!(wanted.received, Received { push, replies }, "{query}");
    }

    #[test]
    fn what_is_no_number_is_told_from_what_is_absent() {
        assert!(head::with_target("/ws?seen=1&token=x", b"", Wanted::of).is_none());
        check("?resume=x&seen=7", Some(7), None);
        check("?seen=0&replies=9&resume=x", Some(0), Some(9));
        check("?resume=x&seen=4294967295", Some(u32::MAX), None);
        for wrong in ["", "&seen=", "&seen=-1", "&seen=%2B1", "&seen=+1", "&seen=4294967296", "&seen=1e3", "&seen=x"] {
            check(&format!("?resume=x{wrong}"), None, None);
        }
        check("?resume=x&seen=1&replies=many", None, None);
    }
}
