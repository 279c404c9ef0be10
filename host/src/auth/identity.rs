//! Whom a token names, or why it is not accepted.

/// Whom a valid token names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The id of the user.
    pub user: i64,
    /// When the token expires, in milliseconds since 1970-01-01T00:00:00Z, or `None` if its expiry does not end
    /// sessions.
    pub expires_ms: Option<u64>,
    /// How long after the expiry the session ends, in milliseconds.
    pub leeway_ms: u64,
}

/// Why a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no token.
    #[error("a token is needed: `Authorization: Bearer TOKEN`, or `?token=TOKEN`")]
    Missing,
    /// The token is malformed, expired or forged, or it is not for this gateway.
    #[error("the token is not valid: {0}")]
    Invalid(&'static str),
    /// The token is valid, but this claim is not a user id.
    #[error("the token's claim `{0}` is no user id, which is a number from 1 to {max}", max = i64::MAX)]
    NoUser(String),
    /// The token's key is not known, and a source of keys fails or is not loaded yet. So the token may be valid.
    #[error("the token cannot be checked, because its key is not loaded yet: try again later")]
    Unavailable,
}
