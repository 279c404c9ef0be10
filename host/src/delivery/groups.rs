//! The groups of sessions. A group exists while it has members.

use crate::delivery::{
    owner::{Interests, Owner},
    session::Session,
};
use dashmap::{DashMap, Entry};
use foldhash::fast::RandomState;
use indexmap::IndexMap;
use std::sync::Arc;
use uuid::Uuid;

/// The size of a group up to which its lock is held while its members are visited. A session that leaves a larger group
/// in the meantime may be visited after that.
const MAX_VISITED_UNDER_LOCK: usize = 2048;

/// The groups of all owners, by the owner's id and the owner's number for the group.
///
/// A session's membership is stored here and in the session's holdings. Both are changed under the lock of the
/// holdings, which is taken before the lock of a group.
#[derive(Debug, Default)]
pub(super) struct Groups(DashMap<(u32, u64), Group, RandomState>);

#[derive(Debug, Default)]
struct Group {
    /// The members, one after the other in memory, since a push visits all of them.
    members: IndexMap<Uuid, Arc<Session>>,
    /// The topics that are heard for the group, each with what [`Interests::begin`] has returned.
    topics: IndexMap<Box<str>, u64>,
}

impl Groups {
    /// Adds a session that is no member yet.
    pub(super) fn join(&self, owner: &Owner, group: u64, session: &Arc<Session>) {
        self.0.entry((owner.id, group)).or_default().members.insert(session.id, Arc::clone(session));
        owner.count_join();
    }

    /// Removes a member. The group and its interests end with the last member.
    pub(super) fn leave(&self, owner: &Owner, group: u64, member: Uuid, interests: &dyn Interests) {
        let Entry::Occupied(mut entry) = self.0.entry((owner.id, group)) else { return };
        entry.get_mut().members.swap_remove(&member);
        owner.count_leave();
        if entry.get().members.is_empty() {
            for topic in entry.get().topics.keys() {
                owner.end(topic, interests);
            }
            entry.remove();
        }
    }

    /// Adds a topic to those that are heard for the group, if the group exists. Returns what [`Interests::begin`] has
    /// returned when the topic was added.
    pub(super) fn listen(&self, owner: &Arc<Owner>, group: u64, topic: &str, interests: &dyn Interests) -> Option<u64> {
        let mut group = self.0.get_mut(&(owner.id, group))?;
        Some(*group.topics.entry(topic.into()).or_insert_with(|| owner.begin(topic, interests)))
    }

    /// Removes a topic from those that are heard for the group.
    pub(super) fn unlisten(&self, owner: &Owner, group: u64, topic: &str, interests: &dyn Interests) {
        if let Some(mut group) = self.0.get_mut(&(owner.id, group))
            && group.topics.swap_remove(topic).is_some()
        {
            owner.end(topic, interests);
        }
    }

    /// Calls `visit` for every member. Returns false if there is none.
    pub(super) fn each(&self, owner: &Owner, group: u64, visit: impl FnMut(&Arc<Session>)) -> bool {
        let Some(group) = self.0.get(&(owner.id, group)) else { return false };
        if group.members.len() <= MAX_VISITED_UNDER_LOCK {
            group.members.values().for_each(visit);
        } else {
            // Players who join or leave any group of this part of the table would wait.
            let members: Vec<_> = group.members.values().cloned().collect();
            drop(group);
            members.iter().for_each(visit);
        }
        true
    }

    pub(super) fn members(&self, owner: &Owner, group: u64) -> usize {
        self.0.get(&(owner.id, group)).map_or(0, |group| group.members.len())
    }

    pub(super) fn topics(&self, owner: &Owner, group: u64) -> usize {
        self.0.get(&(owner.id, group)).map_or(0, |group| group.topics.len())
    }
}
