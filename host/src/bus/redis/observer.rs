//! What the two connections to one server report to the bus that they belong to.

use crate::bus::{
    batch::Publication,
    queue::{ChangeNumber, Queue},
};
use std::sync::Arc;
use tokio::time::Instant;

/// The bus, as the connections to one server see it. `O` is the type of a publish's origin.
pub(super) trait Observer<O>: Send + Sync {
    /// The subscribing connection is new. The topics up to this change are subscribed to before anything is published.
    fn began(&self, last: ChangeNumber);

    /// Redis has carried out the changes of the topics up to this one.
    fn carried_out(&self, change: ChangeNumber);

    /// The subscribing connection broke. If all topics were subscribed to, `worked_until` is when the last bytes arrived.
    fn lost(&self, worked_until: Option<Instant>);

    /// The server says that another one is responsible for the topics of a slot, or that it does not know who is.
    fn misplaced(&self, slot: Option<u16>);

    /// Takes a publish back, because the server says that another one is responsible for its topic. Returns false if
    /// there is no other server.
    fn take_back(&self, publication: &Publication<'_, O>) -> bool;
}

/// The bus that has no other server. Only its queue has to know what Redis has carried out.
pub(super) struct Alone<O>(pub(super) Arc<Queue<O>>);

impl<O: Send> Observer<O> for Alone<O> {
    fn began(&self, last: ChangeNumber) {
        // Publishes that wait for later changes are held back from here on.
        self.0.set_carried_out(last);
    }

    fn carried_out(&self, change: ChangeNumber) {
        self.0.set_carried_out(change);
    }

    fn lost(&self, _: Option<Instant>) {
        // Nothing is published without the subscriptions, so nothing has to be held back in addition.
        self.0.set_carried_out(ChangeNumber::MAX);
    }

    fn misplaced(&self, _: Option<u16>) {}

    fn take_back(&self, _: &Publication<'_, O>) -> bool {
        false
    }
}
