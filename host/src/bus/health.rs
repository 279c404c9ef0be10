//! Whether the bus is connected, in all directions.

use crate::telemetry::metrics::Metrics;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// The reason before the first attempt to connect has ended.
const CONNECTING: &str = "connecting";

/// The state of the connections of the bus: whether they work, and if not, why.
#[derive(Debug)]
pub struct Health {
    pub(super) metrics: Arc<Metrics>,
    /// Why each part that is not connected is not.
    errors: Mutex<BTreeMap<Part, String>>,
    /// Notified when a part is not connected.
    failed: Notify,
}

/// A part of a bus that connects by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    pub(super) direction: Direction,
    /// The address of the node of a Cluster or the name of a slot, or nothing if there is only one server.
    pub(super) node: Arc<str>,
}

impl From<Direction> for Part {
    fn from(direction: Direction) -> Self {
        Self { direction, node: Arc::from("") }
    }
}

/// The directions of a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    Publish,
    Subscribe,
    /// Reads streams. It counts as connected if there are none.
    Read,
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
        let connecting = [Direction::Publish, Direction::Subscribe].map(|part| (part.into(), CONNECTING.to_owned()));
        Self { metrics, errors: Mutex::new(connecting.into()), failed: Notify::new() }
    }

    /// Returns why the bus is not connected, or `None` if it is connected. One direction may only be waiting for the
    /// other, so the error of a failed attempt comes first.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        let errors = self.errors();
        let failed = errors.values().find(|error| *error != CONNECTING);
        failed.or_else(|| errors.values().next()).cloned()
    }

    pub(super) fn is_down(&self, part: &Part) -> bool {
        self.errors().contains_key(part)
    }

    /// Returns whether a direction of a node is not connected.
    pub(super) fn is_node_down(&self, node: &str) -> bool {
        self.errors().keys().any(|part| &*part.node == node)
    }

    /// Records why a part is not connected, or that it is connected.
    pub(super) fn set(&self, part: &Part, error: Option<String>) {
        let has_failed = error.is_some();
        self.update(|errors| match error {
            Some(error) => drop(errors.insert(part.clone(), error)),
            None => drop(errors.remove(part)),
        });
        if has_failed {
            self.failed.notify_one();
        }
    }

    /// Waits until a part is not connected. Only one task may wait. Cancel-safe.
    pub(super) async fn has_failed(&self) {
        self.failed.notified().await;
    }

    /// Records that a part is needed and not connected yet.
    pub(super) fn begin(&self, part: &Part) {
        self.set(part, Some(CONNECTING.to_owned()));
    }

    /// Forgets a node of the Cluster.
    pub(super) fn remove_node(&self, node: &str) {
        self.update(|errors| errors.retain(|part, _| &*part.node != node));
    }

    fn update(&self, change: impl FnOnce(&mut BTreeMap<Part, String>)) {
        let mut errors = self.errors();
        change(&mut errors);
        self.metrics.bus_connected.set(i64::from(errors.is_empty()));
    }

    fn errors(&self) -> MutexGuard<'_, BTreeMap<Part, String>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
