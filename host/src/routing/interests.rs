//! The bus topics that plugins listen to for sessions and groups.

use crate::{
    bus::{ChangeNumber, Topics},
    delivery::owner::{Interests, Owner},
};
use dashmap::{DashMap, Entry};
use std::sync::Arc;

/// The topics that at least one session or group of this gateway wants to hear.
pub(super) struct Heard {
    topics: Arc<Topics>,
    heard: DashMap<String, Hearers>,
}

/// Those who hear a topic.
struct Hearers {
    /// The change of the subscriptions that began the topic.
    began: ChangeNumber,
    /// The owners that hear the topic, with the number of their sessions and groups that want it.
    owners: Vec<(u32, usize)>,
}

impl Heard {
    pub(super) fn new(topics: Arc<Topics>) -> Self {
        Self { topics, heard: DashMap::new() }
    }

    /// Returns whether the owner hears the topic.
    pub(super) fn is_heard_by(&self, owner: &Owner, topic: &str) -> bool {
        self.heard.get(topic).is_some_and(|heard| heard.owners.iter().any(|(id, _)| *id == owner.id))
    }
}

impl Interests for Arc<Heard> {
    fn begin(&self, owner: &Arc<Owner>, topic: &str) -> ChangeNumber {
        match self.heard.entry(topic.to_owned()) {
            Entry::Occupied(mut heard) => {
                let Hearers { began, owners } = heard.get_mut();
                match owners.iter_mut().find(|(id, _)| *id == owner.id) {
                    Some((_, holders)) => *holders += 1,
                    None => owners.push((owner.id, 1)),
                }
                *began
            }
            Entry::Vacant(vacant) => {
                // The bus is told under the entry's lock, so that it sees the changes of one topic in their order.
                let began = self.topics.add(topic);
                vacant.insert(Hearers { began, owners: vec![(owner.id, 1)] });
                began
            }
        }
    }

    fn end(&self, owner: &Owner, topic: &str) {
        let Entry::Occupied(mut heard) = self.heard.entry(topic.to_owned()) else { return };
        let owners = &mut heard.get_mut().owners;
        if let Some(i) = owners.iter().position(|(id, _)| *id == owner.id) {
            owners[i].1 -= 1;
            if owners[i].1 == 0 {
                owners.swap_remove(i);
            }
        }
        if owners.is_empty() {
            self.topics.remove(topic);
            heard.remove();
        }
    }
}
