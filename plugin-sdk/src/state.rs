//! Reads the plugin's state, which the gateway keeps. The actions [`Action::put`], [`Action::put_for`] and
//! [`Action::remove`] write it.
//!
//! A call is a transaction: if another call changes an entry that this call has read, before this call's actions are
//! carried out, the gateway makes this call again. A call that writes without reading is never repeated.
//!
//! In native tests these functions read the state of the running [`Harness`](crate::testing::Harness).
//!
//! [`Action::put`]: crate::Action::put
//! [`Action::put_for`]: crate::Action::put_for
//! [`Action::remove`]: crate::Action::remove

/// Returns the value of a key, if there is such an entry.
#[must_use]
pub fn get(key: &str) -> Option<Vec<u8>> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::imports::gateway::policy::state::get(key);
    #[cfg(not(target_arch = "wasm32"))]
    return crate::testing::reads::entry(key);
}

/// Returns the entries with keys that begin with `prefix`, in the order of their keys' bytes, at most `max` of them.
#[must_use]
pub fn scan(prefix: &str, max: u32) -> Vec<(String, Vec<u8>)> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::imports::gateway::policy::state::scan(prefix, max);
    #[cfg(not(target_arch = "wasm32"))]
    return crate::testing::reads::entries(prefix, max);
}
