//! Constructors for [`Rejection`], [`Denial`] and [`Admission`], and the protocol's statuses.

use crate::{Admission, Denial, Rejection};

/// The statuses that a policy rejects with. A game defines further statuses of 256 and above, and 9 to 255 are
/// reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// The policy cannot read the payload.
    MalformedPayload = 2,
    /// The policy does not serve the packet's route.
    NoRoute = 3,
    /// The payload is well-formed, but the policy does not accept the request.
    Rejected = 4,
    /// A dependency is unavailable. The client may try again later.
    Unavailable = 5,
    /// The session's user is not allowed to make the request.
    Forbidden = 6,
    /// The client sends requests too fast.
    TooManyRequests = 7,
}

impl From<Status> for u16 {
    fn from(status: Status) -> Self {
        status as Self
    }
}

/// Constructors for the common rejections.
///
/// The client receives the first 1024 bytes of the message. The message should name the error and the field of the
/// request.
///
/// ```
/// use gateway_plugin_sdk::{Rejection, Status};
///
/// assert_eq!(Rejection::forbidden("log in first"), Rejection::new(Status::Forbidden, "log in first"));
/// // Statuses of 256 and above belong to the game.
/// assert_eq!(Rejection::new(256_u16, "it is not your turn").status, 256);
/// ```
impl Rejection {
    /// Creates a rejection. The status is a [`Status`] or a `u16`: 1 to 8, or 256 and above.
    pub fn new(status: impl Into<u16>, message: impl Into<String>) -> Self {
        Self { status: status.into(), message: message.into() }
    }

    /// Creates a rejection with status 2: the policy cannot read the payload.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(Status::MalformedPayload, message)
    }

    /// Creates a rejection with status 4: the policy does not accept the request.
    pub fn rejected(message: impl Into<String>) -> Self {
        Self::new(Status::Rejected, message)
    }

    /// Creates a rejection with status 6: the session's user is not allowed to make the request.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Status::Forbidden, message)
    }
}

impl Denial {
    /// Creates a denial. `status` is an HTTP status, 400 to 599. The client gets the first 1024 bytes of the message.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

/// An admission without a user, a tag, attributes or actions.
#[allow(clippy::derivable_impls, reason = "the type is generated")]
impl Default for Admission {
    fn default() -> Self {
        Self { user: None, tag: 0, attributes: Vec::new(), actions: Vec::new() }
    }
}
