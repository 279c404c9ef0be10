//! The bus topics that plugins listen to for sessions and groups.

use crate::{
    bus::Topics,
    delivery::owner::{Interests, Owner},
};
use dashmap::{DashMap, Entry};
use std::sync::Arc;

/// The topics that at least one session or group of this gateway wants to hear.
pub(super) struct Heard {
    topics: Arc<Topics>,
    /// For each topic the owners that hear it, with the number of their sessions and groups that want it.
    owners: DashMap<String, Vec<(u32, usize)>>,
}

impl Heard {
    pub(super) fn new(topics: Arc<Topics>) -> Self {
        Self { topics, owners: DashMap::new() }
    }

    /// Returns whether the owner hears the topic.
    pub(super) fn is_heard_by(&self, owner: &Owner, topic: &str) -> bool {
        self.owners.get(topic).is_some_and(|owners| owners.iter().any(|(id, _)| *id == owner.id))
    }
}

impl Interests for Arc<Heard> {
    fn begin(&self, owner: &Arc<Owner>, topic: &str) {
        match self.owners.entry(topic.to_owned()) {
            Entry::Occupied(mut owners) => match owners.get_mut().iter_mut().find(|(id, _)| *id == owner.id) {
                Some((_, holders)) => *holders += 1,
                None => owners.get_mut().push((owner.id, 1)),
            },
            Entry::Vacant(vacant) => {
                // The bus is told under the entry's lock, so that it sees the changes of one topic in their order.
                self.topics.add(topic);
                vacant.insert(vec![(owner.id, 1)]);
            }
        }
    }

    fn end(&self, owner: &Owner, topic: &str) {
        let Entry::Occupied(mut owners) = self.owners.entry(topic.to_owned()) else { return };
        if let Some(i) = owners.get().iter().position(|(id, _)| *id == owner.id) {
            owners.get_mut()[i].1 -= 1;
            if owners.get()[i].1 == 0 {
                owners.get_mut().swap_remove(i);
            }
        }
        if owners.get().is_empty() {
            self.topics.remove(topic);
            owners.remove();
        }
    }
}
