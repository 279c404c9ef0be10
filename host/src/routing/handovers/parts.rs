//! What a session is besides its messages: how one gateway describes it, and how another one begins it.

use super::messages::{Held, Offer};
use crate::{
    bus::{self, ChangeNumber, Queue},
    delivery::{
        limits::OverLimit,
        owner::{Interests, Owner},
        registry::{Holder, Registered, Registry, Seat},
        session::Session,
    },
    routing::{accounts::Accounts, interests::Heard, origin::Origin},
};
use std::sync::Arc;

/// The parts of the gateway that hand-overs need.
pub(in crate::routing) struct Parts {
    pub(in crate::routing) registry: Arc<Registry>,
    pub(in crate::routing) accounts: Arc<Accounts>,
    pub(in crate::routing) heard: Arc<Heard>,
    pub(in crate::routing) topics: Arc<bus::Topics>,
    pub(in crate::routing) bus: Arc<Queue<Origin>>,
    /// The host as the owner of the topics that it listens to before a session is here.
    pub(in crate::routing) host: Arc<Owner>,
}

impl Parts {
    /// Describes a session of this gateway, for another one.
    pub(super) fn describe(&self, session: &Session, replies_lost: u64) -> Offer {
        let holdings = self.registry.holdings(session.id).into_iter();
        let named = holdings.filter_map(|holding| Some(Held::new(&self.accounts.name(holding.owner)?, holding)));
        Offer { user: session.user(), is_anonymous: session.is_anonymous(), holdings: named.collect(), replies_lost }
    }

    /// Checks whether the user of a session that comes here may have another one.
    ///
    /// # Errors
    /// Returns the limit that would be exceeded.
    pub(super) fn has_room_for(&self, user: Option<i64>) -> Result<(), OverLimit> {
        let has_room = user.is_none_or(|user| self.registry.may_have_another(user));
        has_room.then_some(()).ok_or(OverLimit::SessionsPerUser)
    }

    /// Begins a session that was at another gateway. No limit refuses it any more, because it has ended there.
    ///
    /// # Errors
    /// Returns an outcome of `gateway_resumes_total`.
    pub(super) fn admit(&self, seat: Seat, session: Session, offer: &Offer) -> Result<Registered, &'static str> {
        let Self { registry, accounts, .. } = self;
        // The end of a session that was here before would end the new one with the same id as well.
        if registry.session(session.id).is_some() {
            return Err("busy");
        }
        let session = registry.admit_to(seat, session);
        if let Some(user) = offer.user {
            registry.bind_anyway(&session, user).map_err(|_| "busy")?;
        }
        for Held { plugin, tag, attributes, groups, topics } in &offer.holdings {
            let owner = &accounts.of(&plugin.as_str().into()).owner;
            registry.set_tag(owner, session.id, *tag);
            let attributes = attributes.iter().map(|it| (it.name.clone(), it.value.clone())).collect();
            session.set_attributes(owner, attributes);
            groups.iter().for_each(|group| registry.join(owner, session.id, *group));
            topics.iter().for_each(|topic| _ = registry.listen(owner, Holder::Session(session.id), topic));
        }
        Ok(session)
    }

    /// Returns no topics that are listened to yet.
    pub(super) fn listening(&self) -> Listening<'_> {
        Listening { parts: self, topics: Vec::new() }
    }
}

/// Topics that the host listens to until this is dropped.
pub(super) struct Listening<'a> {
    parts: &'a Parts,
    topics: Vec<String>,
}

impl Listening<'_> {
    /// Begins to listen to a topic. Returns the number of the change that subscribes to it.
    pub(super) fn begin(&mut self, topic: &str) -> ChangeNumber {
        self.topics.push(topic.to_owned());
        self.parts.heard.begin(&self.parts.host, topic)
    }

    /// Begins to listen to the topics of a session. Returns the number of the last change.
    pub(super) fn begin_all(&mut self, offer: &Offer) -> ChangeNumber {
        let topics = offer.holdings.iter().flat_map(|held| &held.topics);
        topics.map(|topic| self.begin(topic)).max().unwrap_or(0)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.topics.iter().for_each(|topic| self.parts.heard.end(&self.parts.host, topic));
    }
}
