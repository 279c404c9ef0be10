//! The labels of the metrics, and their known values.

use prometheus_client::encoding::EncodeLabelSet;
use std::sync::Arc;

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
        pub(super) struct $name { $(pub(super) $field: $type),* }
    )*};
}

labels! {
    /// Why something ended, failed or was dropped.
    Reason { reason: &'static str }
    /// The route byte, in decimal as in gateway.yaml, or `none` if no plugin serves the route.
    Route { route: String }
    /// The name of a plugin.
    Name { plugin: Arc<str> }
    /// A topic that is a stream.
    Topic { topic: Arc<str> }
    /// A plugin and the outcome of its call or load.
    NameOutcome { plugin: Arc<str>, outcome: &'static str }
    /// The kind of a frame that is no packet by itself.
    Kind { kind: &'static str }
    /// A plugin and the reason why its publish was refused.
    NameReason { plugin: Arc<str>, reason: &'static str }
    /// The outcome of a delivery.
    Outcome { outcome: &'static str }
}

/// The reasons why connections end.
pub(super) const DISCONNECTIONS: [&str; 23] = [
    "closed",
    "gone",
    "idle",
    "write_timeout",
    "text",
    "too_large",
    "protocol_error",
    "receive_budget",
    "frame_flood",
    "rate",
    "sessions_per_user",
    "send_queue_full",
    "send_timeout",
    "policy",
    "api",
    "token_expired",
    "plugin_faults",
    "drain",
    "panic",
    "moved",
    "dismissed",
    "missed",
    "full",
];

/// The outcomes of resumes.
pub(super) const RESUMES: [&str; 9] =
    ["resumed", "handed_over", "restored", "unknown", "another_user", "missed", "busy", "no_answer", "no_room"];

/// The outcomes of leaving a session in Redis.
pub(super) const STORED: [&str; 2] = ["ok", "failed"];

/// The reasons why a client that was away does not get its session back.
pub(super) const UNRESUMED: [&str; 7] = ["handed_over", "stored", "window", "evicted", "full", "missed", "closed"];

/// The reasons why connections do not become sessions.
pub(super) const HANDSHAKES_REFUSED: [&str; 21] = [
    "not_found",
    "bad_upgrade",
    "not_http",
    "too_large",
    "origin",
    "proxy_header",
    "denied",
    "auth_unavailable",
    "denied_by_plugin",
    "plugin_unavailable",
    "sessions",
    "new_sessions",
    "sessions_per_ip",
    "sessions_per_user",
    "handshakes_per_ip",
    "handshake_evicted",
    "timeout",
    "gone",
    "accept_failed",
    "tls_required",
    "tls_failed",
];

/// The reasons why packets and bus messages are refused.
pub(super) const ROUTING_ERRORS: [&str; 12] = [
    "malformed_packet",
    "malformed_payload",
    "no_route",
    "rejected",
    "unavailable",
    "forbidden",
    "too_many_requests",
    "internal",
    "payload_too_large",
    "custom",
    "message_rejected",
    "message_fault",
];

/// The reasons why messages are lost.
pub(super) const DROPPED: [&str; 18] = [
    "send_queue_full",
    "session_closing",
    "session_ended",
    "after_close",
    "bus_unavailable",
    "bus_message_too_large",
    "bus_entry_malformed",
    "no_subscriber",
    "bus_share",
    "publish_loop",
    "too_many_pushes",
    "plugin_bound",
    "state_full",
    "plugin_replaced",
    "departures",
    "presence",
    "plugin_quarantined",
    "plugin_busy",
];

/// The reasons why spans are lost.
pub(super) const SPANS_DROPPED: [&str; 7] =
    ["queue_full", "unreachable", "timeout", "refused", "rejected", "stopping", "too_many"];

/// The outcomes of fetches of keys.
pub(super) const JWKS_FETCHES: [&str; 2] = ["ok", "failed"];

/// The outcomes of a plugin's calls.
pub(super) const CALLS: [&str; 6] = ["ok", "rejected", "trap", "deadline", "memory", "invalid"];

/// The reasons why a plugin's publishes are refused.
pub(super) const PUBLISHES_REFUSED: [&str; 2] = ["bus_share", "publish_loop"];

/// The outcomes of loads, swaps and removals of a plugin.
pub(super) const RELOADS: [&str; 4] = ["loaded", "swapped", "removed", "rejected"];
