//! The largest payload of each route. The receiver of a session reads the limit while a packet arrives, so that it does
//! not buffer a payload that the route will refuse.

use super::snapshot::Snapshot;
use std::{
    array,
    sync::atomic::{AtomicUsize, Ordering},
};

/// The limits of all routes, as of the last reload. A route that no plugin serves takes no payload.
#[derive(Debug)]
pub struct PayloadLimits([AtomicUsize; 256]);

impl Default for PayloadLimits {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicUsize::new(0)))
    }
}

impl PayloadLimits {
    /// Returns the largest payload in bytes that a packet on the route may have.
    #[must_use]
    pub fn max(&self, route: u8) -> usize {
        self.0[usize::from(route)].load(Ordering::Relaxed)
    }

    /// Replaces the limits with those of the plugins in the snapshot.
    pub(super) fn set(&self, snapshot: &Snapshot) {
        for (route, limit) in (0..=u8::MAX).zip(&self.0) {
            let max = snapshot.route(route).map_or(0, |route| route.served.plugin.settings().max_payload);
            limit.store(max, Ordering::Relaxed);
        }
    }

    /// Returns the same limit for every route.
    #[cfg(test)]
    pub(crate) fn all(max: usize) -> Self {
        Self(array::from_fn(|_| AtomicUsize::new(max)))
    }
}
