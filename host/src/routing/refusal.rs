//! Why a packet or a bus message is not served, and how its sender is answered.

use crate::{plugin::Rejection, telemetry::metrics::Metrics};
use gateway_wire::packet::{Status, TooShort};

/// The maximum length in bytes of a rejection's text that the client receives. A longer text is cut.
const MAX_REJECTION_BYTES: usize = 1024;

/// Why a packet or a bus message is not served.
pub(super) enum Refusal {
    TooShort(TooShort),
    NoRoute(u8),
    /// The gateway itself refuses a packet on its own route.
    Control(Status, String),
    PayloadTooLarge {
        bytes: usize,
        max: usize,
    },
    Rejected(Rejection),
    Fault,
    Paused,
    Quarantined,
    Busy,
    BoundToAnother,
    /// The client has no token, so none of its packets names a user.
    Anonymous,
    /// The session's user may have no further session.
    TooManySessions,
    /// The session sends more than it may.
    TooManyPackets,
    TooManyPushes {
        pushes: usize,
        max: usize,
    },
    Bound {
        what: &'static str,
        max: usize,
    },
    StateFull {
        bytes: usize,
        max: usize,
    },
    /// Another call has changed what this call had read. The call is made again.
    Conflict,
    /// The plugin no longer has to be told, because the client is back.
    Withdrawn,
    /// The plugin was replaced by a version with another format of its state.
    Replaced,
    BusFull,
    BusShare,
    Loop(String),
}

impl Refusal {
    /// Returns the status and the text of the answer to the client.
    pub(super) fn answer(&self) -> (u16, String) {
        let (status, why) = match self {
            Self::Rejected(Rejection { status, message }) => {
                return (*status, message[..message.floor_char_boundary(MAX_REJECTION_BYTES)].to_owned());
            }
            Self::TooShort(error) => (Status::MalformedPacket, error.to_string()),
            Self::NoRoute(route) => (Status::NoRoute, format!("no plugin serves route 0x{route:02x}")),
            Self::Control(status, why) => (*status, why.clone()),
            Self::PayloadTooLarge { bytes, max } => {
                let why = format!("the payload has {bytes} bytes, and this route takes {max} (`max_payload_bytes`)");
                (Status::PayloadTooLarge, why)
            }
            Self::Fault => (Status::Internal, "the plugin failed".to_owned()),
            Self::TooManyPushes { pushes, max } => {
                let why =
                    format!("the plugin would deliver to {pushes} sessions at once, and {max} are the most (`pushes`)");
                (Status::Internal, why)
            }
            Self::Paused => {
                let why = "the session's packets make a plugin fail: one packet a second is served".to_owned();
                (Status::TooManyRequests, why)
            }
            Self::BoundToAnother => (Status::Forbidden, "the session is bound to another user".to_owned()),
            Self::Anonymous => {
                let why = "the session is anonymous, so it has no user: connect with a token".to_owned();
                (Status::Forbidden, why)
            }
            Self::TooManySessions => (Status::TooManyRequests, "too many sessions of this user".to_owned()),
            Self::TooManyPackets => (Status::TooManyRequests, "too many requests".to_owned()),
            Self::Quarantined => (Status::Unavailable, "the plugin is in quarantine: it keeps failing".to_owned()),
            Self::Busy => (Status::Unavailable, "the plugin is slow, and too many calls wait for it".to_owned()),
            Self::Bound { what, max } => (
                Status::Internal,
                format!("the plugin would have more than {max} {what}, which is a bound of the gateway"),
            ),
            Self::StateFull { bytes, max } => {
                let why = format!("the plugin's state would have {bytes} bytes, and {max} are the most (`state_mb`)");
                (Status::Unavailable, why)
            }
            Self::Conflict => (Status::Unavailable, "the plugin's state changes too fast".to_owned()),
            Self::Withdrawn => (Status::Unavailable, "the client is back already".to_owned()),
            Self::Replaced => {
                let why = "the plugin was replaced by a version that cannot read its state".to_owned();
                (Status::Unavailable, why)
            }
            Self::BusFull => (Status::Unavailable, "the bus is not connected or too slow".to_owned()),
            Self::BusShare => (Status::Unavailable, "the plugin's share of the bus is used up".to_owned()),
            Self::Loop(topic) => {
                let why = format!(
                    "the publish on \"{topic}\" leads back to the message that caused it, and the plugin makes too \
                     many such publishes"
                );
                (Status::Unavailable, why)
            }
        };
        (status as u16, why)
    }

    /// Returns whether the same call may be served a little later.
    pub(super) fn is_temporary(&self) -> bool {
        matches!(self, Self::Quarantined | Self::Busy | Self::BusFull | Self::BusShare | Self::Replaced)
    }

    /// Counts a call without a packet that was not served.
    pub(super) fn count_loss(&self, metrics: &Metrics) {
        match self {
            Self::Quarantined => metrics.dropped("plugin_quarantined", 1),
            Self::Busy => metrics.dropped("plugin_busy", 1),
            Self::BusFull => metrics.dropped("bus_unavailable", 1),
            Self::BusShare => metrics.dropped("bus_share", 1),
            Self::Loop(_) => metrics.dropped("publish_loop", 1),
            Self::TooManyPushes { .. } => metrics.dropped("too_many_pushes", 1),
            Self::Bound { .. } => metrics.dropped("plugin_bound", 1),
            Self::StateFull { .. } => metrics.dropped("state_full", 1),
            Self::Conflict | Self::Replaced => metrics.dropped("plugin_replaced", 1),
            Self::Rejected(_) => metrics.refused("message_rejected"),
            Self::Fault
            | Self::TooShort(_)
            | Self::NoRoute(_)
            | Self::Control(..)
            | Self::PayloadTooLarge { .. }
            | Self::Paused
            | Self::Withdrawn
            | Self::BoundToAnother
            | Self::Anonymous
            | Self::TooManySessions
            | Self::TooManyPackets => metrics.refused("message_fault"),
        }
    }
}

/// Why a session may not begin.
#[derive(Debug)]
pub struct Denied {
    /// The HTTP status of the answer.
    pub status: u16,
    /// The text of the answer.
    pub message: String,
    /// Whether this was decided. Otherwise a plugin could not be asked.
    pub is_decision: bool,
    /// The label of `gateway_handshakes_refused_total`.
    pub reason: &'static str,
}

impl Denied {
    pub(super) fn missing(plugin: &str) -> Self {
        let message = format!("the plugin {plugin} does not serve, and no session begins without it");
        Self::unavailable(message)
    }

    pub(super) fn loading() -> Self {
        Self::unavailable("the gateway loads its plugins: try again".to_owned())
    }

    fn unavailable(message: String) -> Self {
        Self { status: 503, message, is_decision: false, reason: "plugin_unavailable" }
    }
}

impl From<&Refusal> for Denied {
    fn from(refusal: &Refusal) -> Self {
        let (status, message) = refusal.answer();
        let decided = |status, message, reason| Self { status, message, is_decision: true, reason };
        match refusal {
            Refusal::Rejected(_) => decided(status, message, "denied_by_plugin"),
            Refusal::BoundToAnother => decided(403, message, "denied_by_plugin"),
            Refusal::TooManySessions => decided(429, message, "sessions_per_user"),
            _ => Self::unavailable(message),
        }
    }
}

/// Returns the label of `gateway_routing_errors_total` for a status.
pub(super) fn reason(status: u16) -> &'static str {
    match Status::from_number(status) {
        Some(Status::Ok) | None => "custom",
        Some(status) => status.label(),
    }
}
