//! The names of the commands for publishing and subscribing, which differ between one server and a Cluster.

/// The names of the commands, and of the messages.
#[derive(Debug)]
pub(super) struct Words {
    pub(super) publish: &'static str,
    pub(super) subscribe: &'static str,
    pub(super) unsubscribe: &'static str,
    /// The first part of a message.
    pub(super) message: &'static [u8],
    /// Whether one command may name only topics of the same slot.
    pub(super) is_sharded: bool,
}

/// One server.
pub(super) const PLAIN: Words = Words {
    publish: "PUBLISH",
    subscribe: "SUBSCRIBE",
    unsubscribe: "UNSUBSCRIBE",
    message: b"message",
    is_sharded: false,
};

/// A node of a Cluster. Its messages stay on the node of their topic's slot.
pub(super) const SHARDED: Words = Words {
    publish: "SPUBLISH",
    subscribe: "SSUBSCRIBE",
    unsubscribe: "SUNSUBSCRIBE",
    message: b"smessage",
    is_sharded: true,
};
