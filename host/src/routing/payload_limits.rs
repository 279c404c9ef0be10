//! The largest payload of each route. The receiver of a session reads the limit while a packet arrives, so that it does
//! not buffer a payload that the route will refuse.

use super::snapshot::Snapshot;
use gateway_wire::packet::ROUTE_CONTROL;
use std::{
    array,
    sync::atomic::{AtomicUsize, Ordering},
};

/// The largest payload in bytes of a packet for the gateway itself. The largest one carries a token, and a token that
/// is longer than this does not fit into the request for a session either.
const MAX_CONTROL_BYTES: usize = 16 * 1024;

/// The limits of all routes, as of the last reload. A route that nobody serves takes no payload.
#[derive(Debug)]
pub struct PayloadLimits([AtomicUsize; 256]);

impl Default for PayloadLimits {
    fn default() -> Self {
        Self(array::from_fn(|route| {
            AtomicUsize::new(if route == usize::from(ROUTE_CONTROL) { MAX_CONTROL_BYTES } else { 0 })
        }))
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
        for (route, limit) in (0..=u8::MAX).zip(&self.0).filter(|(route, _)| *route != ROUTE_CONTROL) {
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
