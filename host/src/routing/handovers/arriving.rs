//! The new gateway's side of a hand-over: it asks for a session, publishes the mark, and goes on with the session.

use super::{
    ANSWER_TIMEOUT, Arrived, Arriving, Forgetting, Handovers, NotFetched, Offered, REFUSALS,
    messages::{Content, Mark, Offer, State, Want, Wanted},
    topic_of,
};
use crate::delivery::{registry::Registered, session::Session};
use std::sync::Arc;
use tokio::{sync::oneshot, time};
use uuid::Uuid;

impl Handovers {
    /// Asks another gateway for a session while both run. If this is dropped, or if there is no room for the session
    /// here, the session stays where it is.
    pub(super) async fn ask_for(&self, wanted: &Wanted) -> Result<Offered<'_>, NotFetched> {
        if !self.are_possible() {
            return Err("unknown".into());
        }
        let (handover, theirs) = (Uuid::new_v4(), topic_of(wanted.gateway));
        let (sender, offer) = oneshot::channel();
        // The session may be here already. Then its token was used before.
        if self.parts.registry.session(wanted.session).is_some() {
            return Err("unknown".into());
        }
        if self.places.available_permits() == 0 {
            return Err("busy".into());
        }
        self.arriving().insert(handover, Arriving::Wanted(sender));
        let mut forgetting = Forgetting { handovers: self, handover, told: None, place: None };
        self.publish(0, &theirs, handover, Content::Want(Want::new(wanted, topic_of(self.id))))?;
        forgetting.told = Some(theirs);
        let offer = answer(offer).await?;
        // Only now, because tokens that a client has made up get no offer. `limits.handshakes` bounds those that wait for one.
        forgetting.place = Some(self.places.try_acquire().map_err(|_| "busy")?);
        let seat = self.parts.registry.reserve(wanted.remote.ip())?;
        self.parts.has_room_for(offer.user)?;
        Ok(Offered { forgetting, offer, seat })
    }

    /// Brings a session from another gateway to this one while both run.
    pub(super) async fn take_over(&self, offered: Offered<'_>, wanted: &Wanted) -> Result<Arrived, &'static str> {
        let Offered { mut forgetting, offer, seat } = offered;
        let ways = self.ways.load_full().ok_or("unknown")?;
        let (handover, theirs) = (forgetting.handover, topic_of(wanted.gateway));
        let session = Session::new(wanted.remote, Arc::clone(&ways.limits));
        let session = if offer.is_anonymous { session.anonymous() } else { session }.moving_in(wanted.session);
        let mut listening = self.parts.listening();
        let after = listening.begin(&theirs).max(listening.begin_all(&offer));
        let (sender, state) = oneshot::channel();
        let offered = Arriving::Offered { session: Box::new(session), seat, offer, state: sender };
        self.arriving().insert(handover, offered);
        self.publish(after, &theirs, handover, Content::Mark(Mark {}))?;
        forgetting.told = None;
        answer(state).await
    }

    /// Begins a session at this gateway, because the mark has arrived. From here on, it gets messages.
    pub(super) fn begin_here(&self, handover: Uuid, is_busy: bool) {
        let Some(Arriving::Offered { session, seat, offer, state }) = self.take_if_offered(handover) else { return };
        let outcome = if is_busy { Err("busy") } else { self.parts.admit(seat, *session, &offer) };
        match outcome {
            Ok(session) => {
                let replies_lost = offer.replies_lost;
                let mut arriving = self.arriving();
                // Whoever gives up drops this end first, and then forgets the hand-over.
                if !state.is_closed() {
                    arriving.insert(handover, Arriving::Here { session, replies_lost, waiting: Vec::new(), state });
                }
            }
            // An error means that nobody waits any more.
            Err(why) => drop(state.send(Err(why))),
        }
    }

    pub(super) fn refused(&self, handover: Uuid, why: &str) {
        let why = REFUSALS.into_iter().find(|known| *known == why).unwrap_or("unknown");
        // An error means that nobody waits any more.
        match self.arriving().remove(&handover) {
            Some(Arriving::Wanted(offer)) => drop(offer.send(Err(why))),
            Some(Arriving::Offered { state, .. } | Arriving::Here { state, .. }) => drop(state.send(Err(why))),
            None => {}
        }
    }

    pub(super) fn offered(&self, handover: Uuid, offer: Offer) {
        if let Some(Arriving::Wanted(sender)) = self.arriving().remove(&handover) {
            // An error means that nobody waits any more.
            let _ = sender.send(Ok(offer));
        }
    }

    /// Handles the state of a session, or a part of it. The last part has what is not about the packets.
    pub(super) fn complete(&self, handover: Uuid, mut state: State) {
        let mut arriving = self.arriving();
        let Some(Arriving::Here { waiting, .. }) = arriving.get_mut(&handover) else { return };
        waiting.append(&mut state.waiting);
        if state.has_more {
            return;
        }
        let Some(Arriving::Here { session, replies_lost, waiting, state: sender }) = arriving.remove(&handover) else {
            return;
        };
        drop(arriving);
        state.waiting = waiting;
        session.set_packets(state.packets);
        let waiting = state.waiting.len();
        let Some(moving) = state.into_moving() else {
            self.lose(session, waiting);
            // An error means that nobody waits any more.
            return drop(sender.send(Err("unknown")));
        };
        session.outbox.move_in(moving);
        if let Err(Ok((session, _))) = sender.send(Ok((session, replies_lost))) {
            // Nobody waits any more.
            self.lose(session, 0);
        }
    }

    /// Ends a session that has begun here and that its client does not get. `waiting` is the number of its messages that
    /// are not in its send queue.
    pub(super) fn lose(&self, session: Registered, waiting: usize) {
        let lost = session.end().lost + waiting;
        if lost > 0 {
            self.metrics.dropped("session_ended", lost);
        }
    }

    fn take_if_offered(&self, handover: Uuid) -> Option<Arriving> {
        let mut arriving = self.arriving();
        matches!(arriving.get(&handover)?, Arriving::Offered { .. }).then(|| arriving.remove(&handover))?
    }
}

/// Waits for an answer of the old gateway.
async fn answer<T>(answer: oneshot::Receiver<Result<T, &'static str>>) -> Result<T, &'static str> {
    match time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) | Err(_) => Err("no_answer"),
    }
}
