//! What one session holds, for each owner.

use crate::delivery::owner::Owner;
use indexmap::IndexSet;
use std::sync::Arc;

/// Everything that one session holds. It takes no memory while that is nothing. Few owners give something to the same
/// session, so they are found by a scan.
#[derive(Debug, Default)]
pub(super) struct Holdings(Vec<Share>);

/// What one session holds of one owner.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) owner: Arc<Owner>,
    pub(super) tag: u64,
    pub(super) attributes: Vec<(String, String)>,
    pub(super) groups: IndexSet<u64>,
    pub(super) topics: IndexSet<Box<str>>,
}

/// A copy of what one session holds of one owner, in a fixed order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The id of the owner.
    pub owner: u32,
    /// The tag.
    pub tag: u64,
    /// The attributes.
    pub attributes: Vec<(String, String)>,
    /// The groups that the session is a member of.
    pub groups: Vec<u64>,
    /// The topics that the session itself wants to hear.
    pub topics: Vec<String>,
}

/// How much a session holds of one owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The number of groups that the session is a member of.
    pub groups: usize,
    /// The number of topics that the session itself wants to hear.
    pub topics: usize,
}

impl Holdings {
    pub(super) fn of(&self, owner: &Owner) -> Option<&Share> {
        self.0.iter().find(|share| share.owner.id == owner.id)
    }

    pub(super) fn of_mut(&mut self, owner: &Owner) -> Option<&mut Share> {
        self.0.iter_mut().find(|share| share.owner.id == owner.id)
    }

    /// Returns the owner's share, which is empty if the session held nothing of this owner.
    pub(super) fn share(&mut self, owner: &Arc<Owner>) -> &mut Share {
        let index = self.0.iter().position(|share| share.owner.id == owner.id).unwrap_or_else(|| {
            self.0.push(Share::new(owner));
            self.0.len() - 1
        });
        &mut self.0[index]
    }

    /// Returns a copy of everything.
    pub(super) fn copy(&self) -> Vec<Holding> {
        let copy = |share: &Share| {
            let mut groups: Vec<_> = share.groups.iter().copied().collect();
            let mut topics: Vec<_> = share.topics.iter().map(ToString::to_string).collect();
            groups.sort_unstable();
            topics.sort_unstable();
            Holding { owner: share.owner.id, tag: share.tag, attributes: share.attributes.clone(), groups, topics }
        };
        let mut all: Vec<_> = self.0.iter().map(copy).collect();
        all.sort_unstable_by_key(|holding| holding.owner);
        all
    }

    /// Returns the tags that are not 0, each with the id of its owner.
    pub(super) fn tags(&self) -> Vec<(u32, u64)> {
        let tagged = self.0.iter().filter(|share| share.tag != 0);
        tagged.map(|share| (share.owner.id, share.tag)).collect()
    }
}

impl IntoIterator for Holdings {
    type Item = Share;
    type IntoIter = std::vec::IntoIter<Share>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Share {
    fn new(owner: &Arc<Owner>) -> Self {
        let owner = Arc::clone(owner);
        Self { owner, tag: 0, attributes: Vec::new(), groups: IndexSet::new(), topics: IndexSet::new() }
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        let (_, value) = self.attributes.iter().find(|(known, _)| known == name)?;
        Some(value)
    }

    pub(super) fn held(&self) -> Held {
        Held { groups: self.groups.len(), topics: self.topics.len() }
    }
}
