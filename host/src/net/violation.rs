//! The rules that a client may break, so that its session ends.

use gateway_wire::websocket::ProtocolError;

/// A message or a frame that no client may send.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The client breaks the WebSocket protocol: close code 1002, or 1007 for text that is not UTF-8.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// A message is larger than is configured: close code 1009.
    #[error("a message of {bytes} bytes is over max_message_bytes, {most}")]
    TooLarge {
        /// The length of the message, as far as it was announced.
        bytes: u64,
        /// The configured bound.
        most: usize,
    },
    /// All connections together receive more than is configured, and this connection receives most of it: close code 1009.
    #[error("the gateway receives too much at once")]
    OverBudget,
    /// More frames that carry no packet arrive than are configured: close code 1008.
    #[error("too many frames that carry no packet")]
    Flood,
}
