//! Passes the publishes of the gateway on to the masters and the slots of their topics.

use super::Cluster;
use crate::bus::{
    batch::{Batch, Publication},
    intake::{Handler, NotTaken},
};
use std::time::Duration;
use tokio::time::Instant;

/// How long publishes wait while they cannot be passed on. After that they are refused.
const GRACE: Duration = Duration::from_secs(5);

/// What becomes of publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// They are passed on.
    PassOn,
    /// They wait for the masters, or for the readers of streams.
    Wait,
    /// They are refused, because they would have to wait for too long.
    Refuse,
}

impl<H: Handler> Cluster<H> {
    /// Returns whether the masters are known, and the answers to publishes can be read if they come in streams.
    pub(super) fn can_publish(&self) -> bool {
        self.is_known && self.topics.are_streams_read()
    }

    /// Returns what becomes of publishes now.
    pub(super) fn way_of_publishes(&mut self) -> Way {
        if self.can_publish() {
            self.refused_from = None;
            return Way::PassOn;
        }
        let now = Instant::now();
        let refused_from = *self.refused_from.get_or_insert(now + GRACE);
        if self.intake.queue.is_closed() || now >= refused_from { Way::Refuse } else { Way::Wait }
    }

    /// Passes publishes on or refuses them, or leaves them if they have to wait. A stream may have become wanted while they
    /// were taken.
    pub(super) fn publish(&mut self, batch: &mut Batch<H::Origin>) {
        let way = self.way_of_publishes();
        if way == Way::Wait {
            return;
        }
        self.intake.refuse_abandoned(batch);
        for publication in batch.iter() {
            match way {
                Way::PassOn => self.pass_on(&publication),
                _ => self.intake.refuse(&publication, &NotTaken::NotConnected),
            }
        }
        batch.clear();
    }

    /// Passes a publish on to the node or the slot of its topic.
    pub(super) fn pass_on(&mut self, publication: &Publication<'_, H::Origin>) {
        let is_queued = if self.streams.takes(publication.topic) {
            self.streams.queue(publication, &self.slots, &mut self.tasks)
        } else {
            self.node_of(publication.topic).is_some_and(|node| node.queue(publication))
        };
        if !is_queued {
            self.intake.refuse(publication, &NotTaken::NotConnected);
        }
    }
}
