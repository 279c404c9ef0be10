//! Delivery to sessions: the registry of live sessions, and the send queue (outbox) and the conduct of each.
//!
//! It knows packets and close codes. It does not know sockets, plugins or the bus.

pub mod conduct;
pub mod outbox;
pub mod registry;
