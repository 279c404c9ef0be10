//! Reads the attributes that the plugin gave to sessions in their [`Admission`](crate::Admission).
//!
//! In native tests this module reads the attributes of the running [`Harness`](crate::testing::Harness).

use crate::SessionId;

/// Returns an attribute of a live session, if there is one with this name.
#[must_use]
pub fn get(session: SessionId, name: &str) -> Option<String> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::imports::gateway::policy::attributes::get(session, name);
    #[cfg(not(target_arch = "wasm32"))]
    return crate::testing::reads::attribute(session, name);
}
