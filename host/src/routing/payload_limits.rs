//! The bytes of payload that each route takes. The receiving side asks before a packet is whole, so that it does not keep one that will be refused.

use super::snapshot::Snapshot;
use std::{
    array,
    sync::atomic::{AtomicUsize, Ordering},
};

/// The limit of every route, as of the last reload. A route that no plugin serves takes no payload.
#[derive(Debug)]
pub struct PayloadLimits([AtomicUsize; 256]);

impl Default for PayloadLimits {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicUsize::new(0)))
    }
}

impl PayloadLimits {
    /// The bytes of payload that a packet on the route may have.
    #[must_use]
    pub fn max(&self, route: u8) -> usize {
        self.0[usize::from(route)].load(Ordering::Relaxed)
    }

    /// Takes the limits of the plugins that serve.
    pub(super) fn set(&self, snapshot: &Snapshot) {
        for (route, limit) in (0..=u8::MAX).zip(&self.0) {
            let max = snapshot.route(route).map_or(0, |route| route.served.plugin.settings().max_payload);
            limit.store(max, Ordering::Relaxed);
        }
    }

    /// The same limit for every route.
    #[cfg(test)]
    pub(crate) fn all(max: usize) -> Self {
        Self(array::from_fn(|_| AtomicUsize::new(max)))
    }
}
