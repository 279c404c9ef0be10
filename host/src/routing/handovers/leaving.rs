//! The old gateway's side of a hand-over: it offers a session, and ends it at the mark.

use super::{
    ANSWER_TIMEOUT, Handovers, Leaving, MAX_HANDOVERS, STORING, is_another_user,
    messages::{Content, Refusal, State, Want},
};
use crate::delivery::outbox::{Received, Secret, Unclaimed};
use std::{sync::Arc, time::Duration};
use tokio::time::{self, Instant};
use uuid::Uuid;

/// The time that the old gateway keeps a claimed session for the next step. It is longer than all waits of the new one.
const STEP_TIMEOUT: Duration = Duration::from_secs(6);

/// How often the old gateway looks whether the old connection is closed.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

impl Handovers {
    /// Offers a session that another gateway wants, and waits for the mark.
    pub(super) async fn offer(self: Arc<Self>, handover: Uuid, want: Want) {
        let answer = want.answer.clone();
        let leaving = match self.claim(want).await {
            Ok(leaving) => leaving,
            Err(why) => {
                self.claiming().remove(&handover);
                // If the answer is lost, the other gateway stops waiting for it.
                let _ = self.publish(0, &answer, handover, Content::Refusal(Refusal { why: why.to_owned() }));
                return;
            }
        };
        let offer = leaving.offer.clone();
        self.leaving().insert(handover, leaving);
        // From here on, `give_back` finds the session, so the other order would miss a hand-over that is given up now.
        let is_wanted = self.claiming().remove(&handover);
        if is_wanted && self.publish(0, &answer, handover, Content::Offer(offer)).is_ok() {
            time::sleep(STEP_TIMEOUT).await;
        }
        let given_up = self.leaving().remove(&handover);
        if let Some(Leaving { session, secret, .. }) = given_up {
            session.outbox.unclaim(secret);
        }
    }

    /// Claims a session for a client that wants it at another gateway.
    async fn claim(&self, want: Want) -> Result<Leaving, &'static str> {
        let Want { answer, session, secret, push, replies, is_checked, user } = want;
        let (Ok(session), Ok(secret)) = (Uuid::from_slice(&session), Secret::try_from(secret)) else {
            return Err("unknown");
        };
        if !self.are_possible() || self.leaving().len() >= MAX_HANDOVERS {
            return Err("busy");
        }
        let session = self.parts.registry.session(session).ok_or("unknown")?;
        // Another user's client must not even end the session.
        if is_another_user(is_checked.then_some(user), session.user(), session.is_anonymous()) {
            return Err("another_user");
        }
        let claimed = session.outbox.claim(&secret, Received { push, replies });
        let replies_lost = claimed.map_err(|why| match why {
            Unclaimed::Unknown if session.outbox.is_being_stored() => STORING,
            Unclaimed::Unknown => "unknown",
            Unclaimed::Missed => "missed",
        })?;
        let deadline = Instant::now() + ANSWER_TIMEOUT / 2;
        while !session.outbox.can_move_out() {
            if Instant::now() >= deadline {
                session.outbox.unclaim(secret);
                return Err("busy");
            }
            time::sleep(LOOK_INTERVAL).await;
        }
        let offer = self.parts.describe(&session, replies_lost);
        Ok(Leaving { session, secret, offer, answer })
    }

    /// Ends a session at this gateway, because the mark has arrived, and passes on what waits for its client.
    pub(super) fn end_here(&self, handover: Uuid, is_busy: bool) {
        let Some(Leaving { session, secret, offer, answer }) = self.leaving().remove(&handover) else { return };
        // What a slow plugin is about to send would come too late, what has changed since the offer would be lost, and the
        // client would not be told of a gap that this gateway has.
        let can_move = !is_busy
            && self.parts.topics.gap_since().is_none()
            && self.parts.describe(&session, offer.replies_lost) == offer;
        let Some(moving) = can_move.then(|| session.outbox.move_out()).flatten() else {
            session.outbox.unclaim(secret);
            // If the answer is lost, the other gateway stops waiting for it.
            let _ = self.publish(0, &answer, handover, Content::Refusal(Refusal { why: "busy".to_owned() }));
            return;
        };
        let waiting = moving.waiting.len();
        // A gateway takes no larger message from the bus.
        let parts = State::new(moving, session.packets()).split(self.max_message_bytes);
        if self.publish_all(0, &answer, handover, parts.into_iter().map(Content::State)).is_err() {
            self.metrics.dropped("session_ended", waiting);
            tracing::warn!(session = %session.id, "a session is lost: the bus has no room for its messages");
        }
    }

    /// Gives a hand-over up, because the other gateway does not go on with it.
    pub(super) fn give_back(&self, handover: Uuid) {
        self.claiming().remove(&handover);
        if let Some(Leaving { session, secret, .. }) = self.leaving().remove(&handover) {
            session.outbox.unclaim(secret);
        }
    }
}
