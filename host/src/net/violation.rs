//! The violations of rules by a client. Each violation ends the client's session.

use gateway_wire::websocket::ProtocolError;

/// Why a session ends because of a message or a frame of its client.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The client breaks the WebSocket protocol: close code 1002, or 1007 for text that is not UTF-8.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// A message is larger than `max_message_bytes`: close code 1009.
    #[error("a message of {bytes} bytes is over max_message_bytes, {most}")]
    TooLarge {
        /// The length of the message in bytes, as far as its frames have announced it.
        bytes: u64,
        /// The largest length in bytes that is configured.
        most: usize,
    },
    /// All connections together buffer more bytes than `receive_budget_bytes`, and this connection buffers the most:
    /// close code 1009.
    #[error("the gateway receives too much at once")]
    OverBudget,
    /// The client sends more frames without a packet than `control_frames_per_s` allows: close code 1008.
    #[error("too many frames that carry no packet")]
    Flood,
}
