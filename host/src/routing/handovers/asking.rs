//! The new gateway's first steps of a hand-over: it asks for a session, and publishes the mark.

use super::{
    Arrived, Arriving, Forgetting, Handovers, MAX_HANDOVERS, NotFetched, Offered, answer,
    messages::{Content, Mark, Want, Wanted},
    topic_of,
};
use crate::delivery::session::Session;
use std::sync::Arc;
use tokio::sync::oneshot;
use uuid::Uuid;

impl Handovers {
    /// Asks another gateway for a session while both run. If this is dropped, or if there is no room for the session here,
    /// the session stays where it is.
    pub(super) async fn ask_for(&self, wanted: &Wanted) -> Result<Offered<'_>, NotFetched> {
        if !self.are_possible() {
            return Err("unknown".into());
        }
        let (handover, theirs) = (Uuid::new_v4(), topic_of(wanted.gateway));
        let (sender, offer) = oneshot::channel();
        match self.parts.registry.session(wanted.session) {
            // The session is here already, so its token was used before.
            Some(_) => return Err("unknown".into()),
            None if self.arriving().len() >= MAX_HANDOVERS => return Err("busy".into()),
            None => {}
        }
        self.arriving().insert(handover, Arriving::Wanted(sender));
        let mut forgetting = Forgetting { handovers: self, handover, told: None };
        self.publish(0, &theirs, handover, Content::Want(Want::new(wanted, topic_of(self.id))))?;
        forgetting.told = Some(theirs);
        let offer = answer(offer).await?;
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
}
