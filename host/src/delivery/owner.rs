//! The owners of what sessions hold: tags, attributes, groups and interests.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// An owner of tags, attributes, groups and interests: a plugin, over all its generations. What one owner gave a
/// session is invisible to the others.
#[derive(Debug)]
pub struct Owner {
    /// The owner's id. No two owners have the same.
    pub id: u32,
    memberships: AtomicUsize,
    interests: AtomicUsize,
}

impl Owner {
    /// Returns an owner of nothing.
    #[must_use]
    pub fn new(id: u32) -> Self {
        Self { id, memberships: AtomicUsize::new(0), interests: AtomicUsize::new(0) }
    }

    /// Returns the number of memberships in the owner's groups. A session counts once for each of its groups.
    #[must_use]
    pub fn memberships(&self) -> usize {
        self.memberships.load(Ordering::Relaxed)
    }

    /// Returns the number of the owner's interests. A topic counts once for each of its holders.
    #[must_use]
    pub fn interests(&self) -> usize {
        self.interests.load(Ordering::Relaxed)
    }

    pub(super) fn count_join(&self) {
        self.memberships.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_leave(&self) {
        self.memberships.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts and reports that one more holder wants a topic. Returns the number of the change that hears it.
    pub(super) fn begin(self: &Arc<Self>, topic: &str, interests: &dyn Interests) -> u64 {
        self.interests.fetch_add(1, Ordering::Relaxed);
        interests.begin(self, topic)
    }

    /// Counts and reports that one holder less wants a topic.
    pub(super) fn end(&self, topic: &str, interests: &dyn Interests) {
        self.interests.fetch_sub(1, Ordering::Relaxed);
        interests.end(self, topic);
    }
}

/// The side that hears topics for the holders of interests.
///
/// Its functions are called under locks of this folder. They must not call the registry.
pub trait Interests: Send + Sync {
    /// Is called when a holder begins to want a topic, once for each holder and topic. Returns the number of the change
    /// that hears the topic. Later changes have higher numbers.
    fn begin(&self, owner: &Arc<Owner>, topic: &str) -> u64;

    /// Is called when that holder ceases to want the topic.
    fn end(&self, owner: &Owner, topic: &str);
}

/// Hears nothing.
impl Interests for () {
    fn begin(&self, _: &Arc<Owner>, _: &str) -> u64 {
        0
    }

    fn end(&self, _: &Owner, _: &str) {}
}
