//! What the host keeps for a plugin over all its generations, and what a call has read of it.

use super::{
    bindings::SessionId,
    log::Lines,
    store::{Reads, Store},
};
use crate::traces::Traces;
use std::sync::Arc;

/// The maximum number of reads of one call. Each read is remembered until the call's actions are carried out.
pub(super) const MAX_READS: usize = 10_000;

/// What the host keeps for a plugin over all its generations, as far as instances read it.
pub struct Kept {
    /// The entries of the plugin's state.
    pub store: Store,
    /// The attributes that the plugin gave to sessions.
    pub attributes: Box<dyn Attributes>,
    /// The traces that calls may belong to.
    pub traces: Arc<Traces>,
    /// The lines that the plugin has logged in this second.
    pub(super) lines: Arc<Lines>,
}

impl Kept {
    /// Returns what is kept for a plugin that has not logged anything yet.
    #[must_use]
    pub fn new(store: Store, attributes: Box<dyn Attributes>, traces: Arc<Traces>) -> Self {
        Self { store, attributes, traces, lines: Arc::default() }
    }
}

/// The source of session attributes.
pub trait Attributes: Send + Sync {
    /// Returns an attribute of a live session.
    fn attribute(&self, session: SessionId, name: &str) -> Option<String>;
}

/// Finds what is kept for the plugins.
pub trait Keeper: Send + Sync {
    /// Returns what is kept for the plugin with this name, now and in the future.
    fn kept(&self, plugin: &Arc<str>) -> Arc<Kept>;
}

/// A keeper for plugins outside a gateway. Each plugin starts with empty state, and there are no sessions.
pub struct Standalone;

impl Keeper for Standalone {
    fn kept(&self, _: &Arc<str>) -> Arc<Kept> {
        Arc::new(Kept::new(Store::new(usize::MAX), Box::new(NoSessions), Arc::default()))
    }
}

struct NoSessions;

impl Attributes for NoSessions {
    fn attribute(&self, _: SessionId, _: &str) -> Option<String> {
        None
    }
}

/// The reads of the call that an instance makes.
pub(super) struct Reading {
    pub(super) kept: Arc<Kept>,
    pub(super) reads: Reads,
    /// The number of reads so far. A read of an attribute counts, although it is not checked later.
    pub(super) count: usize,
    /// The time of the call, in milliseconds since 1970.
    pub(super) now: u64,
    /// Whether a call is under way that may read.
    pub(super) is_open: bool,
}
