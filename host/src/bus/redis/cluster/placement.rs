//! At which node each topic is subscribed to, and what the nodes have to carry out: changes of the wanted topics, and
//! moves of topics when slots move.

use super::{
    node::{Node, Number},
    slots::Slots,
};
use crate::bus::{queue::ChangeNumber, redis::slot};
use std::{collections::BTreeMap, mem, sync::Arc};
use tokio::time::Instant;

/// The number of a change at each node that has to carry it out.
pub(super) type Places = BTreeMap<Number, ChangeNumber>;

/// A change of the wanted topics.
pub(super) struct Change {
    /// The number of the change for the queue of this gateway, if there are no more changes.
    pub(super) last: Option<ChangeNumber>,
    pub(super) at: Places,
}

/// A move of topics from one node to another.
pub(super) struct Move {
    /// Since when messages may have been lost.
    pub(super) blind_since: Instant,
    pub(super) at: Places,
}

/// The masters, and which slots belong to them.
pub(super) struct Masters<'a, O> {
    pub(super) nodes: &'a BTreeMap<Arc<str>, Node<O>>,
    pub(super) slots: &'a Slots,
}

/// The wanted topics, each with the node at which it is subscribed to, if its slot has one.
#[derive(Default)]
pub(super) struct Placed {
    pub(super) fixed: BTreeMap<Arc<str>, Option<Number>>,
    listened: BTreeMap<Arc<str>, Option<Number>>,
}

impl<'a, O: Copy + Send + Sync + 'static> Masters<'a, O> {
    /// Returns the node to which a topic belongs.
    pub(super) fn of(&self, topic: &str) -> Option<&'a Node<O>> {
        self.nodes.get(self.slots.master_of(slot::of(topic))?)
    }

    fn node(&self, number: Option<Number>) -> Option<&'a Node<O>> {
        self.nodes.values().find(|node| Some(node.number) == number)
    }

    /// Ends a topic at its previous node, which has unsubscribed from it when the slot moved. A command would be
    /// refused with the same error as that for a slot that has moved just now.
    fn forget(&self, previous: Option<Number>, topic: &str) {
        if let Some(node) = self.node(previous) {
            node.topics.forget(topic);
        }
    }
}

impl Placed {
    /// Replaces the fixed topics. `is_subscribed` says whether a topic is wanted otherwise: if sessions have begun to
    /// listen to a topic while it was fixed, it was never [added](Self::add).
    pub(super) fn set_fixed<O: Copy + Send + Sync + 'static>(
        &mut self,
        topics: impl Iterator<Item = String>,
        masters: &Masters<'_, O>,
        is_subscribed: impl Fn(&str) -> bool,
        places: &mut Places,
    ) {
        let topics = topics.map(|topic| (topic.into(), None)).collect();
        for (topic, at) in mem::replace(&mut self.fixed, topics) {
            if !self.fixed.contains_key(&topic) && is_subscribed(&topic) {
                if let Some(node) = masters.node(at) {
                    node.topics.add(&topic);
                }
                self.listened.insert(topic, at);
            }
        }
        self.place_fixed(masters, places);
    }

    /// Begins to listen to a topic.
    pub(super) fn add<O: Copy + Send + Sync + 'static>(
        &mut self,
        topic: Arc<str>,
        masters: &Masters<'_, O>,
        places: &mut Places,
    ) {
        let number = masters.of(&topic).map(|node| {
            raise(places, node, node.topics.add(&topic));
            node.number
        });
        self.listened.insert(topic, number);
    }

    /// Ends what [`add`](Self::add) began.
    pub(super) fn remove<O: Copy + Send + Sync + 'static>(&mut self, topic: &str, masters: &Masters<'_, O>) {
        if let Some(at) = self.listened.remove(topic)
            && let Some(node) = masters.node(at)
        {
            node.topics.remove(topic);
        }
    }

    /// Moves each topic that does not belong to its node any more. Returns whether there was one.
    pub(super) fn follow<O: Copy + Send + Sync + 'static>(
        &mut self,
        masters: &Masters<'_, O>,
        places: &mut Places,
    ) -> bool {
        self.place_fixed(masters, places) | self.move_listened(masters, places)
    }

    /// Gives each node the fixed topics that belong to it. Returns whether one of them has moved to another node.
    fn place_fixed<O: Copy + Send + Sync + 'static>(&mut self, masters: &Masters<'_, O>, places: &mut Places) -> bool {
        let mut has_moved = false;
        for (topic, at) in &mut self.fixed {
            let owner = masters.of(topic).map(|node| node.number);
            let previous = mem::replace(at, owner);
            if previous != owner {
                masters.forget(previous, topic);
                has_moved = true;
            }
        }
        for node in masters.nodes.values() {
            let of_node = self.fixed.iter().filter(|(_, at)| **at == Some(node.number));
            node.topics.set_fixed(of_node.map(|(topic, _)| topic.to_string()).collect());
            node.topics.with_last(|last| raise(places, node, last));
        }
        has_moved
    }

    fn move_listened<O: Copy + Send + Sync + 'static>(
        &mut self,
        masters: &Masters<'_, O>,
        places: &mut Places,
    ) -> bool {
        let mut has_moved = false;
        for (topic, at) in &mut self.listened {
            let owner = masters.of(topic);
            let number = owner.map(|node| node.number);
            if *at == number {
                continue;
            }
            masters.forget(*at, topic);
            if let Some(node) = owner {
                raise(places, node, node.topics.add(topic));
            }
            (*at, has_moved) = (number, true);
        }
        has_moved
    }
}

/// Makes a node carry out the change, and what it has to carry out already.
fn raise<O>(places: &mut Places, node: &Node<O>, change: ChangeNumber) {
    let last = places.entry(node.number).or_default();
    *last = change.max(*last);
}

/// Returns whether the nodes have carried out what belongs to a change or a move, except for those that are excused.
pub(super) fn is_done<O: Copy + Send + Sync + 'static>(
    nodes: &BTreeMap<Arc<str>, Node<O>>,
    at: &Places,
    is_excused: fn(&Node<O>) -> bool,
) -> bool {
    // A node that is not there any more has nothing to carry out.
    nodes.values().all(|node| match at.get(&node.number) {
        Some(change) => node.has_carried_out(*change) || is_excused(node),
        None => true,
    })
}
