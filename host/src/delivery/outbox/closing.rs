//! Why sessions and connections are closed.

/// Why a session is closed, in the terms of RFC 6455.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The close code.
    pub code: u16,
    /// The reason, of at most 123 bytes.
    pub reason: String,
    /// The label of `gateway_disconnections_total`.
    pub cause: &'static str,
}

impl Closing {
    /// Returns the closing of a session with messages that wait for longer than `send_timeout_s`.
    #[must_use]
    pub fn send_timeout() -> Self {
        let reason = "too slow: a message waited for longer than send_timeout_s".to_owned();
        Self { code: 1013, reason, cause: "send_timeout" }
    }

    /// Returns the closing of a session whose user has begun more sessions than a user may have.
    #[must_use]
    pub fn another_session() -> Self {
        let reason = "another session of this user began".to_owned();
        Self { code: 4009, reason, cause: "sessions_per_user" }
    }

    pub(super) fn queue_full() -> Self {
        Self { code: 1013, reason: "too slow: the send queue is full".to_owned(), cause: "send_queue_full" }
    }

    /// The cause if the client goes on over another connection.
    pub const MOVED: &str = "moved";

    /// The cause if the session goes on at another gateway.
    pub const HANDED_OVER: &str = "handed_over";

    /// The cause if the connection ends because the gateway stops, and the client may go on elsewhere.
    pub const DISMISSED: &str = "dismissed";

    /// The cause if the session waits in Redis for its client.
    pub const STORED: &str = "stored";

    /// Returns the closing of a connection whose client goes on over another one.
    pub(super) fn moved() -> Self {
        let reason = "the session goes on over another connection".to_owned();
        Self { code: 4010, reason, cause: Self::MOVED }
    }

    /// Returns the closing of a session that ends because the gateway stops.
    #[must_use]
    pub fn going_away() -> Self {
        Self { code: 1001, reason: "the gateway stops".to_owned(), cause: "drain" }
    }

    /// Returns the closing of a connection that ends because the gateway stops.
    pub(super) fn dismissed() -> Self {
        Self { cause: Self::DISMISSED, ..Self::going_away() }
    }

    /// Returns the closing of a session that waits in Redis for its client.
    #[must_use]
    pub fn stored() -> Self {
        Self::unresumed(Self::STORED)
    }

    /// Returns whether only the connection ends, and not the session.
    #[must_use]
    pub fn is_of_connection(&self) -> bool {
        matches!(self.cause, Self::MOVED | Self::DISMISSED)
    }

    /// Returns the closing of a session whose client has not come back in time.
    #[must_use]
    pub fn window_passed() -> Self {
        Self::unresumed("window")
    }

    /// Returns the closing of a session that made room for others.
    #[must_use]
    pub fn evicted() -> Self {
        Self::unresumed("evicted")
    }

    pub(super) fn handed_over() -> Self {
        let reason = "the session goes on at another gateway".to_owned();
        Self { code: 4010, reason, cause: Self::HANDED_OVER }
    }

    pub(super) fn replay_full() -> Self {
        Self::unresumed("full")
    }

    /// Returns whether the session ends because its client is away.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self.cause, "window" | "evicted" | "full" | "missed")
    }

    pub(super) fn unresumed(cause: &'static str) -> Self {
        Self { code: 4010, reason: "the session cannot be resumed any more".to_owned(), cause }
    }
}
