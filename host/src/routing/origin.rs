//! The identity of the packet that caused a publish.

use gateway_wire::packet::Header;
use uuid::Uuid;

/// The packet that caused a publish. The gateway answers the packet if the bus refuses the publish, or if the publish
/// reaches no subscriber.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The session's id. An `Arc` of the session was rejected, because two threads would write its reference count for
    /// each packet.
    pub(super) session: Uuid,
    pub(super) header: Header,
}
