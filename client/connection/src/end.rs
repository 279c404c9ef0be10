use std::time::Duration;

use crate::ended::Ended;

/// How a connection ended, or why an attempt gave none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The gateway sent a close frame with this code, or with none.
    Closed(Option<u16>),
    /// The connection broke without a close frame.
    Lost,
    /// Nothing was received for too long, so the client has cut the connection.
    Silent,
    /// There is no answer to the upgrade: no address, no TCP connection, no TLS, or an end in the middle.
    Unreachable,
    /// The answer to the upgrade is this HTTP status. `retry_after` is zero if the answer does not say it.
    Refused { status: u16, retry_after: Duration },
    /// The connection was upgraded, but the welcome did not come in time.
    NoWelcome,
    /// The server does not speak WebSocket, or its first packet is not the welcome.
    NoGateway,
}

impl End {
    /// Whether the server has accepted the upgrade, so that it should have sent a welcome.
    pub(crate) fn is_after_upgrade(self) -> bool {
        matches!(self, Self::Closed(_) | Self::Lost | Self::Silent | Self::NoWelcome)
    }

    /// Whether the answer to the upgrade, or its lack of sense, is what ended the attempt.
    pub(crate) fn is_refusal(self) -> bool {
        matches!(self, Self::Refused { .. } | Self::NoGateway)
    }
}

impl From<&Ended> for End {
    fn from(ended: &Ended) -> Self {
        match ended {
            Ended::Closed(frame) => Self::Closed(frame.as_ref().map(|(code, _)| *code)),
            Ended::Lost(_) => Self::Lost,
            Ended::Silent(_) => Self::Silent,
        }
    }
}
