//! How a session ends.

use crate::{
    delivery::outbox::Closing,
    net::{socket::Error, violation::Violation},
};
use gateway_wire::websocket;

/// How a session ended: the label of `gateway_disconnections_total`, and the payload of the close frame. If the
/// connection is broken, there is no close frame.
pub(super) struct End {
    pub(super) cause: &'static str,
    pub(super) close: Option<Vec<u8>>,
    /// Whether only the connection ends. Then the client may come back to its session over another one.
    pub(super) is_break: bool,
}

impl End {
    /// The connection broke, so there is no close frame.
    pub(super) fn silent(cause: &'static str) -> Self {
        Self { cause, close: None, is_break: true }
    }

    pub(super) fn with_code(cause: &'static str, code: u16, reason: &str) -> Self {
        Self { cause, close: Some(websocket::close_payload(code, reason)), is_break: false }
    }

    /// Nothing was received for too long. Often the connection broke without anybody noticing.
    pub(super) fn idle() -> Self {
        Self { is_break: true, ..Self::with_code("idle", 1001, "idle: nothing was received for too long") }
    }

    /// The client has sent a close frame with this payload, which is answered with the same payload (RFC 6455, 5.5.1).
    /// A client that leaves for good sends 1000 or 1001, or no code. With any other code, it gives up the connection.
    pub(super) fn by_client(payload: Vec<u8>) -> Self {
        let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        Self { cause: "closed", close: Some(payload), is_break: !matches!(code, None | Some(1000 | 1001)) }
    }
}

impl From<Closing> for End {
    fn from(closing: Closing) -> Self {
        // A session whose client has changed its connection, and cannot have it back, ends as one whose client is away.
        let is_break = closing.is_of_connection() || closing.is_absence();
        Self { is_break, ..Self::with_code(closing.cause, closing.code, &closing.reason) }
    }
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        let violation = match error {
            Error::Gone(_) => return Self::silent("gone"),
            Error::Violation(violation) => violation,
        };
        let (cause, code) = match violation {
            Violation::Protocol(error) => ("protocol_error", error.close_code()),
            Violation::TooLarge { .. } => ("too_large", 1009),
            Violation::OverBudget => ("receive_budget", 1009),
            Violation::Flood => ("frame_flood", 1008),
        };
        Self::with_code(cause, code, &violation.to_string())
    }
}
