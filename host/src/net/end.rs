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
}

impl End {
    pub(super) fn silent(cause: &'static str) -> Self {
        Self { cause, close: None }
    }

    pub(super) fn with_code(cause: &'static str, code: u16, reason: &str) -> Self {
        Self { cause, close: Some(websocket::close_payload(code, reason)) }
    }
}

impl From<Closing> for End {
    fn from(closing: Closing) -> Self {
        Self::with_code(closing.cause, closing.code, &closing.reason)
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
