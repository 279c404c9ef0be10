//! What a plugin was asked in a call for several packets, and its decisions on them.

use super::{calls::Call, snapshot::ServingPlugin};
use crate::{delivery::session::Session, plugin::Decision};
use std::{sync::Arc, vec};

/// The decisions on the next packets of a session, in their order.
pub struct Batch {
    pub(super) asked: Asked,
    pub(super) decisions: vec::IntoIter<Decision>,
}

/// The question that a plugin has answered with a batch.
pub(super) struct Asked {
    pub(super) served: Arc<ServingPlugin>,
    pub(super) user: Option<i64>,
    pub(super) tag: u64,
    /// The time of the call, in milliseconds since 1970.
    pub(super) now: u64,
    /// The time of the call in nanoseconds, divided by the number of packets.
    pub(super) elapsed_ns: u64,
}

impl Batch {
    /// Returns whether no decision is left.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.decisions.len() == 0
    }

    /// Returns the decision on the packet whose turn it is.
    pub(super) fn next(&mut self) -> Option<Decision> {
        self.decisions.next()
    }
}

impl Asked {
    /// Returns whether the plugin would be asked the same now.
    pub(super) fn is_current(&self, session: &Session, call: &Call<'_>) -> bool {
        Arc::ptr_eq(&self.served, call.served)
            && self.user == session.user()
            && self.tag == session.tag(&call.served.account.owner)
    }
}
