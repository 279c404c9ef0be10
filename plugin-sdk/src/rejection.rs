//! Why a packet or a message is not served.

use crate::Rejection;

/// The statuses of the protocol. A game's own are 256 and above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// The payload cannot be read.
    MalformedPayload = 2,
    /// The route is not served.
    NoRoute = 3,
    /// The policy says no.
    Rejected = 4,
    /// Something that is needed is away.
    Unavailable = 5,
    /// The session's user may not.
    Forbidden = 6,
    /// Not so fast.
    TooManyRequests = 7,
}

impl From<Status> for u16 {
    fn from(status: Status) -> Self {
        status as Self
    }
}

/// ```
/// use gateway_plugin_sdk::{Rejection, Status};
///
/// assert_eq!(Rejection::forbidden("log in first"), Rejection::new(Status::Forbidden, "log in first"));
/// // A status of the game's own.
/// assert_eq!(Rejection::new(256_u16, "it is not your turn").status, 256);
/// ```
impl Rejection {
    /// A rejection with any status but 0.
    pub fn new(status: impl Into<u16>, message: impl Into<String>) -> Self {
        Self { status: status.into(), message: message.into() }
    }

    /// Status 2: the payload cannot be read.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(Status::MalformedPayload, message)
    }

    /// Status 4: the policy says no.
    pub fn rejected(message: impl Into<String>) -> Self {
        Self::new(Status::Rejected, message)
    }

    /// Status 6: the session's user may not.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Status::Forbidden, message)
    }
}
