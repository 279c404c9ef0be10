//! Whether the client of a session is there, and whether it can claim the session over another connection.
//!
//! ```text
//! Here ──break──► Away ──claim──► Claimed ──return──► Bound ──welcome──► Here
//!   ├────claim────► Leaving ──break──┘
//!   └────dismiss──► Dismissed ──break──► Away
//! ```

use super::closing::Closing;
use subtle::ConstantTimeEq;

/// What a client needs in order to claim its session. Each connection has another one.
pub type Secret = [u8; 16];

/// Returns whether two secrets are the same, in a time that does not tell how much of them is.
#[must_use]
pub fn is_same(known: &[u8], given: &Secret) -> bool {
    known.ct_eq(given).into()
}

/// Whether the client has a connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Client {
    /// It has one, and cannot claim the session over another one.
    #[default]
    Bound,
    /// It has one, and can claim the session over another one.
    Here(Secret),
    /// It has claimed the session, and the old connection still has to notice. The secret is there if the claim was
    /// given up.
    Leaving(Option<Secret>),
    /// It has one that ends because the gateway stops, and can claim the session over another one.
    Dismissed(Secret),
    /// It has none, and can claim the session.
    Away(Secret),
    /// It has claimed the session, and is about to have a connection.
    Claimed,
    /// The session has ended.
    Ended,
}

impl Client {
    /// Returns whether the messages wait for another connection.
    pub(super) fn is_away(&self) -> bool {
        matches!(self, Self::Leaving(_) | Self::Dismissed(_) | Self::Away(_) | Self::Claimed)
    }

    /// Returns why the connection of a client that is away ends.
    pub(super) fn closing(&self) -> Closing {
        if let Self::Dismissed(_) = self { Closing::dismissed() } else { Closing::moved() }
    }

    /// Returns whether the client is about to have another connection. Then as much may wait as for any session.
    pub(super) fn is_about_to_return(&self) -> bool {
        matches!(self, Self::Leaving(None) | Self::Claimed)
    }
}

/// Why a client does not get its session back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclaimed {
    /// The secret is wrong or was used before, or the session is about to end.
    #[error("no session can be claimed with this token")]
    Unknown,
    /// A push that the client has not received is no longer kept, or the client claims to have received what was never
    /// sent. The session ends.
    #[error("not everything that the client misses is still there")]
    Missed,
}
