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

/// The meaning of a close code (RFC 6455, section 7.4.1, and the IANA registry of close codes).
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
        _ => "(no code that this client knows)",
    }
}
