//! Delivery to sessions: the live sessions, their limits, what they hold, and the send queue (outbox) and the conduct of
//! each session.
//!
//! Any thread may queue packets for a session here. The session's task in `net` takes the packets and writes them.
//!
//! Modules of this folder may use `sync`. They know packets and close codes. They do not know sockets,
//! `routing`, `plugin`, `bus` or `reload`.

pub mod conduct;
mod groups;
pub mod holdings;
pub mod limits;
pub mod network;
mod occupancy;
pub mod outbox;
pub mod owner;
pub mod parking;
pub mod registry;
pub mod session;
