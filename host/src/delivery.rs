//! Delivery to sessions: the registry of live sessions and the send queue (outbox) of each.
//!
//! It knows packets and close codes. It does not know sockets, plugins or the bus.

pub mod outbox;
pub mod registry;
