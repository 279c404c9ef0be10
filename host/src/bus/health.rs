//! Whether the bus is connected, in all directions.

use crate::telemetry::metrics::Metrics;
use std::sync::{Arc, Mutex, PoisonError};

/// The reason before the first attempt to connect has ended.
const CONNECTING: &str = "connecting";

/// The state of the connections of the bus: whether they work, and if not, why.
#[derive(Debug)]
pub struct Health {
    pub(super) metrics: Arc<Metrics>,
    /// Why each direction is not connected, indexed by [`Direction`].
    errors: Mutex<[Option<String>; 3]>,
}

/// The directions of a bus.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    Publish = 0,
    Subscribe = 1,
    /// Reads streams. It counts as connected if there are none.
    Read = 2,
}

impl Direction {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Read => "read",
        }
    }
}

impl Health {
    /// Returns the state of a bus that is not connected yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let connecting = || Some(CONNECTING.to_owned());
        Self { metrics, errors: Mutex::new([connecting(), connecting(), None]) }
    }

    /// Returns why the bus is not connected, or `None` if it is connected. One direction may only be waiting for the
    /// other, so the error of a failed attempt comes first.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = errors.iter().flatten().find(|error| *error != CONNECTING);
        failed.or_else(|| errors.iter().flatten().next()).cloned()
    }

    /// Records that a direction is needed and not connected yet.
    pub(super) fn begin(&self, direction: Direction) {
        self.set(direction, Some(CONNECTING.to_owned()));
    }

    pub(super) fn is_down(&self, direction: Direction) -> bool {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)[direction as usize].is_some()
    }

    pub(super) fn set(&self, direction: Direction, error: Option<String>) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors[direction as usize] = error;
        self.metrics.bus_connected.set(i64::from(errors.iter().all(Option::is_none)));
    }
}
