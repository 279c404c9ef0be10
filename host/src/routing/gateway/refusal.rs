//! Why a packet or a message is not served, and what its sender is told.

use crate::{
    packet::{Status, TooShort},
    plugin::Rejection,
};

/// Why a packet or a message is not served.
pub(super) enum Refusal {
    TooShort(TooShort),
    NoRoute(u8),
    Rejected(Rejection),
    Fault,
    Quarantined,
    Busy,
    BoundToAnother,
    BusFull,
}

impl Refusal {
    /// What the client is told: a status and a text.
    pub(super) fn answer(&self) -> (u16, String) {
        let (status, why) = match self {
            Self::Rejected(rejection) => return (rejection.status, rejection.message.clone()),
            Self::TooShort(error) => (Status::MalformedPacket, error.to_string()),
            Self::Fault => (Status::Internal, "the plugin failed".to_owned()),
            Self::BoundToAnother => (Status::Forbidden, "the session is bound to another user".to_owned()),
            Self::NoRoute(route) => (Status::NoRoute, format!("no plugin serves route 0x{route:02x}")),
            Self::Quarantined => (Status::Unavailable, "the plugin is in quarantine: it keeps failing".to_owned()),
            Self::Busy => (Status::Unavailable, "the plugin is slow, and too much waits for it".to_owned()),
            Self::BusFull => (Status::Unavailable, "the bus is away or too slow".to_owned()),
        };
        (status as u16, why)
    }
}

/// The label of `gateway_routing_errors_total`.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        1 => "malformed_packet",
        2 => "malformed_payload",
        3 => "no_route",
        4 => "rejected",
        5 => "unavailable",
        6 => "forbidden",
        7 => "too_many_requests",
        8 => "internal",
        _ => "custom",
    }
}
