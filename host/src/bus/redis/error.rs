//! Why a connection to Redis ended, or could not be made.

use crate::telemetry::text;
use gateway_wire::resp::Malformed;
use redis::{ErrorKind, RedisError};
use std::{io, time::Duration};
use tokio::time;

/// The beginning of the error for a command that the ACL of the gateway's user does not allow.
pub(super) const NOT_PERMITTED: &[u8] = b"NOPERM ";

/// The beginning of the error of a Redis that cannot save its data (`stop-writes-on-bgsave-error`). It refuses `PING`
/// as well as writes, and still carries messages.
pub(super) const CANNOT_SAVE: &[u8] = b"MISCONF ";

/// The beginning of the error for a topic for which another node of the Cluster is responsible.
pub(super) const MOVED: &[u8] = b"MOVED ";

/// Why a connection ended, or could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("its address cannot be used: {0}")]
    Address(String),
    #[error("it does not answer within {0:?} (`redis.timeout_ms`)")]
    Timeout(Duration),
    #[error("it refused {command}: {why}")]
    Refused { command: &'static str, why: String },
    #[error("it is no master: {0}")]
    Demoted(String),
    /// A key is no stream, or the user may not read this key. It has the text of [`Refused`](Self::Refused).
    #[error("it refused {command}: {why}")]
    Unreadable { command: &'static str, why: String },
    #[error("the Sentinels name no master that can be used: {0}")]
    NoMaster(String),
    #[error("no node of the Cluster names a master of the slot")]
    NoMasterOfSlot,
    #[error("the master is now {0}")]
    Moved(String),
    #[error("{0} is a replica, not a master: what is published there does not reach the backends of the master")]
    Replica(String),
    #[error("a message of the gateway to itself had no subscriber: the subscription is lost, or is on another server")]
    Unheard,
    #[error("it answers, but a message of the gateway to itself did not arrive: the subscription is lost")]
    Lost,
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl LinkError {
    /// Returns whether Redis did not answer in time. It is useless to wait even longer for such a Redis.
    pub(super) fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout(_))
    }

    /// Returns whether the connection looked good until a probe failed.
    pub(super) fn is_found_by_probe(&self) -> bool {
        matches!(self, Self::Timeout(_) | Self::Replica(_) | Self::Unheard | Self::Lost)
    }
}

/// The error of the client library when it makes a connection.
impl From<RedisError> for LinkError {
    fn from(error: RedisError) -> Self {
        let (kind, is_refused) = (error.kind(), error.code().is_some());
        let why = text::bounded(error);
        match kind {
            ErrorKind::InvalidClientConfig => Self::Address(why),
            ErrorKind::AuthenticationFailed => Self::Refused { command: "the login", why },
            _ if is_refused => Self::Refused { command: "the connection", why },
            _ => Self::Io(io::Error::other(why)),
        }
    }
}

/// Returns whether a `NOPERM` forbids the command, and not only a channel or a key.
pub(super) fn forbids_command(why: &[u8]) -> bool {
    String::from_utf8_lossy(why).contains(" to run the ")
}

/// Returns the text of an error from Redis in a form that is safe for a log line.
pub(super) fn for_log(error: &[u8]) -> String {
    text::bounded(String::from_utf8_lossy(error))
}

/// Waits for an outcome for at most `bound`. The error names the configured `timeout`, of which `bound` is a part.
pub(super) async fn within<T>(
    bound: Duration,
    timeout: Duration,
    outcome: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    time::timeout(bound, outcome).await.unwrap_or(Err(LinkError::Timeout(timeout)))
}
