//! What the nodes have to carry out: changes of the wanted topics, and moves of topics when slots move.

use super::node::{Node, Number};
use crate::bus::queue::ChangeNumber;
use std::{collections::BTreeMap, sync::Arc};
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

/// Ends a topic at its previous node, which has unsubscribed from it when the slot moved. A command would be refused with
/// the same error as that for a slot that has moved just now.
pub(super) fn forget<O>(nodes: &BTreeMap<Arc<str>, Node<O>>, previous: Option<Number>, topic: &str) {
    if let Some(node) = nodes.values().find(|node| previous == Some(node.number)) {
        node.topics.forget(topic);
    }
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
