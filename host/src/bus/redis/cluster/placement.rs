//! The topics at the nodes that they belong to: their changes, and their moves when slots move.

use super::{
    Cluster,
    node::{Node, Number},
};
use crate::bus::{intake::Handler, queue::ChangeNumber};
use std::{collections::BTreeMap, mem, sync::Arc};
use tokio::time::Instant;

/// The number of a change at each node that has to carry it out.
pub(super) type Places = BTreeMap<Number, ChangeNumber>;

/// A change of the wanted topics.
pub(super) struct Change {
    /// The number of the change for the queue of this gateway, if there are no more changes.
    last: Option<ChangeNumber>,
    at: Places,
}

/// A move of topics from one node to another.
pub(super) struct Move {
    /// Since when messages may have been lost.
    pub(super) blind_since: Instant,
    pub(super) at: Places,
}

impl<H: Handler> Cluster<H> {
    /// Passes changes of the wanted topics on to the nodes.
    pub(super) fn change_topics(&mut self) {
        let changes = self.topics.take();
        let mut at = Places::new();
        if let Some(fixed) = changes.news {
            let channels = fixed.into_iter().filter(|topic| !self.streams.takes(topic));
            self.fixed = channels.map(|topic| (topic.into(), None)).collect();
            self.place_fixed(&mut at);
        }
        for topic in changes.removed {
            if let Some(Some(number)) = self.listened.remove(&topic)
                && let Some(node) = self.node(number)
            {
                node.topics.remove(&topic);
            }
        }
        for topic in changes.added {
            let number = self.node_of(&topic).map(|node| {
                at.insert(node.number, node.topics.add(&topic));
                node.number
            });
            self.listened.insert(topic, number);
        }
        self.waiting.push_back(Change { last: changes.last, at });
        self.settle_changes();
    }

    /// Gives each node the fixed topics that belong to it. Returns whether one of them has moved to another node.
    pub(super) fn place_fixed(&mut self, places: &mut Places) -> bool {
        let owners: Vec<_> = self.fixed.keys().map(|topic| self.node_of(topic).map(|node| node.number)).collect();
        let mut has_moved = false;
        for ((topic, at), owner) in self.fixed.iter_mut().zip(owners) {
            let previous = mem::replace(at, owner);
            if previous != owner {
                forget(&self.nodes, previous, topic);
                has_moved = true;
            }
        }
        for node in self.nodes.values() {
            let of_node = self.fixed.iter().filter(|(_, at)| **at == Some(node.number));
            node.topics.set_fixed(of_node.map(|(topic, _)| topic.to_string()).collect());
            node.topics.with_last(|last| {
                places.insert(node.number, last);
            });
        }
        has_moved
    }

    /// Moves each topic that is listened to and does not belong to its node any more. Returns whether there was one.
    pub(super) fn move_listened(&mut self, places: &mut Places) -> bool {
        let mut listened = mem::take(&mut self.listened);
        let mut has_moved = false;
        for (topic, at) in &mut listened {
            let owner = self.node_of(topic);
            let number = owner.map(|node| node.number);
            if *at == number {
                continue;
            }
            forget(&self.nodes, *at, topic);
            if let Some(node) = owner {
                places.insert(node.number, node.topics.add(topic));
            }
            (*at, has_moved) = (number, true);
        }
        self.listened = listened;
        has_moved
    }

    /// Finishes the changes that all nodes have carried out. Publishes do not wait for a node that is lost, as it may be
    /// away for long, and the clients are told of the gap.
    pub(super) fn settle_changes(&mut self) {
        let nodes = &self.nodes;
        let is_done = |at: &Places, is_excused: fn(&Node<H::Origin>) -> bool| {
            // A node that is not there any more has nothing to carry out.
            nodes.values().all(|node| match at.get(&node.number) {
                Some(change) => node.has_carried_out(*change) || is_excused(node),
                None => true,
            })
        };
        let done = self.waiting.iter().take_while(|change| is_done(&change.at, Node::is_away)).count();
        let moved: Vec<_> = self.moves.extract_if(.., |moved| is_done(&moved.at, |_| false)).collect();
        for change in self.waiting.drain(..done) {
            if let Some(last) = change.last {
                self.intake.queue.set_carried_out(last);
            }
        }
        for Move { blind_since, .. } in moved {
            let intake = Arc::clone(&self.intake);
            self.tasks.spawn(async move { intake.handler.missed(blind_since.elapsed()).await });
        }
    }
}

/// Ends a topic at its previous node, which has unsubscribed from it when the slot moved. A command would be refused with
/// the same error as that for a slot that has moved just now.
fn forget<O>(nodes: &BTreeMap<Arc<str>, Node<O>>, previous: Option<Number>, topic: &str) {
    if let Some(node) = nodes.values().find(|node| previous == Some(node.number)) {
        node.topics.forget(topic);
    }
}
