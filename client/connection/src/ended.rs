use std::fmt;
use std::time::Duration;

use crate::text;

/// The reason why a connection is over although the client did not end it.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The gateway sent a close frame with this code and reason, or with neither.
    Closed(Option<(u16, String)>),
    /// The connection broke, and this is the error of the transport.
    Lost(String),
    /// Nothing was received for this time, so the connection was given up.
    Silent(Duration),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(None) => write!(f, "the gateway closed the connection without a code"),
            Self::Closed(Some((code, reason))) => {
                write!(f, "the gateway closed the connection: {code} {}", meaning(*code))?;
                if reason.is_empty() { Ok(()) } else { write!(f, ": {}", text::clean(reason)) }
            }
            Self::Silent(time) => write!(f, "the gateway has sent nothing for {} s", time.as_secs()),
            Self::Lost(why) => write!(f, "the connection is lost: {why}"),
        }
    }
}

impl std::error::Error for Ended {}

/// The meaning of a close code: those of RFC 6455, section 7.4.1, and the IANA registry of close codes, and the gateway's
/// own ones from 4001 on (docs/protocol.md). A plugin may end a session with any other code from 3000 on.
fn meaning(code: u16) -> &'static str {
    match code {
        1000 => "normal closure",
        1001 => "going away (it is shutting down)",
        1002 => "protocol error",
        1003 => "unsupported data",
        1007 => "invalid data",
        1008 => "policy violation",
        1009 => "message too big",
        1011 => "internal error",
        1012 => "service restart",
        1013 => "try again later",
        4001 => "the token has expired",
        4002 => "ended by an operator or a backend",
        4009 => "another session of the user has begun",
        4010 => "the session goes on over another connection",
        3000..=4999 => "a code of the game",
        _ => "(no code that this client knows)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: u16, shown: &str) {
        let ended = Ended::Closed(Some((code, "bye".to_owned())));
        assert_eq!(ended.to_string(), format!("the gateway closed the connection: {shown}: bye"));
    }

    #[test]
    fn a_close_code_has_a_name() {
        check(1013, "1013 try again later");
        check(2999, "2999 (no code that this client knows)");
        check(3000, "3000 a code of the game");
        check(4002, "4002 ended by an operator or a backend");
        check(4999, "4999 a code of the game");
        check(5000, "5000 (no code that this client knows)");
    }
}
