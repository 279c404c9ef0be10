//! The packet that a publish came from.

use gateway_wire::packet::Header;
use uuid::Uuid;

/// The packet that a publish came from. It is answered if the bus does not take the publish.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The session's id. With an `Arc` of the session, two threads would write its reference count for each packet.
    pub(super) session: Uuid,
    pub(super) header: Header,
}
