use std::fmt;

use crate::end::End;
use crate::ended::Ended;

/// Why there is no connection, and the remedy.
#[derive(Debug)]
pub struct OpenError {
    pub(crate) end: End,
    pub(crate) error: anyhow::Error,
}

impl OpenError {
    /// There was no answer to the upgrade.
    pub(crate) fn unreachable(error: anyhow::Error) -> Self {
        Self { end: End::Unreachable, error }
    }

    /// Something else than a gateway answered.
    pub(crate) fn no_gateway(error: anyhow::Error) -> Self {
        Self { end: End::NoGateway, error }
    }
}

impl From<Ended> for OpenError {
    /// The connection ended before the welcome.
    fn from(ended: Ended) -> Self {
        Self { end: End::from(&ended), error: ended.into() }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The causes belong to the message: the remedy may be in them.
        write!(f, "{:#}", self.error)
    }
}

impl std::error::Error for OpenError {}
