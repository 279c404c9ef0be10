//! The expiry of a session's token: when the client is warned, and when the session ends.
//!
//! Times are those of the system's clock and not of the timer's, because the issuer of the token knows only the former.

use crate::auth::Identity;
use std::time::Duration;

/// How long before the expiry the client is warned, in milliseconds. It is less if the token lives for less than four
/// times as long.
const MAX_WARNING_MS: u64 = 30_000;

/// The expiry of a session's token. All times are milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Expiry {
    /// When the token expires.
    expires_ms: u64,
    /// When the session ends.
    ends_ms: u64,
    /// When the client is warned, or `None` if it was.
    warns_ms: Option<u64>,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing is due yet.
    Nothing,
    /// The client has to be warned that its token expires in this number of milliseconds.
    Warning(u64),
    /// The session has to end.
    End,
}

impl Expiry {
    /// Returns the expiry of a token that was checked now, or `None` if it does not end the session.
    pub(super) fn of(identity: Identity) -> Option<Self> {
        Self::at(identity, crate::sync::uptime::unix_ms())
    }

    fn at(identity: Identity, now_ms: u64) -> Option<Self> {
        let expires_ms = identity.expires_ms?;
        let warning_ms = (expires_ms.saturating_sub(now_ms) / 4).min(MAX_WARNING_MS);
        Some(Self {
            expires_ms,
            ends_ms: expires_ms.saturating_add(identity.leeway_ms),
            warns_ms: Some(expires_ms - warning_ms),
        })
    }

    /// Returns what is due at this time. A warning is due once.
    pub(super) fn due(&mut self, now_ms: u64) -> Due {
        if now_ms >= self.ends_ms {
            return Due::End;
        }
        match self.warns_ms {
            Some(warns_ms) if now_ms >= warns_ms => {
                self.warns_ms = None;
                Due::Warning(self.expires_ms.saturating_sub(now_ms))
            }
            _ => Due::Nothing,
        }
    }

    /// Returns the time until something is due.
    pub(super) fn next_in(&self, now_ms: u64) -> Duration {
        Duration::from_millis(self.warns_ms.unwrap_or(self.ends_ms).saturating_sub(now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expiry(expires_ms: u64, now_ms: u64) -> Expiry {
        Expiry::at(Identity { user: 7, expires_ms: Some(expires_ms), leeway_ms: 5000 }, now_ms).unwrap()
    }

    #[test]
    fn the_warning_comes_once_30_s_before_the_expiry_and_the_end_after_the_leeway() {
        let mut expiry = expiry(1_000_000, 0);
        assert_eq!((expiry.due(969_999), expiry.next_in(900_000)), (Due::Nothing, Duration::from_secs(70)));
        assert_eq!((expiry.due(970_000), expiry.next_in(970_000)), (Due::Warning(30_000), Duration::from_secs(35)));
        assert_eq!(expiry.due(1_004_999), Due::Nothing);
        assert_eq!([expiry.due(1_005_000), expiry.due(u64::MAX)], [Due::End, Due::End]);
    }

    #[test]
    fn the_warning_of_a_short_life_comes_after_three_quarters_of_it() {
        let mut short = expiry(8000, 0);
        assert_eq!([short.due(5999), short.due(6001)], [Due::Nothing, Due::Warning(1999)]);
        let mut expired = expiry(8000, 9000);
        assert_eq!([expired.due(9000), expired.due(9000)], [Due::Warning(0), Due::Nothing]);
        assert_eq!(expired.next_in(9000), Duration::from_secs(4));
        assert_eq!(expiry(u64::MAX, 0).next_in(0), Duration::from_millis(u64::MAX - 30_000));
    }

    #[test]
    fn a_token_whose_expiry_is_ignored_has_none() {
        assert_eq!(Expiry::at(Identity { user: 7, expires_ms: None, leeway_ms: 5000 }, 0), None);
    }
}
