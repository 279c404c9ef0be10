//! The actions of a decision, carried out.
//!
//! First capacity of the bus is reserved, then everything else is done in the order of the list, then the publishes are committed in one step. So
//! the bus sees what a call publishes when the call's last other action is done: an answer may be quicker than the rest of the call, and must
//! neither miss the session that is being bound nor overtake a delivery.

use super::{
    decision::MessageAction,
    gateway::{Gateway, Origin},
    refusal::Refusal,
    snapshot::Served,
};
use crate::{
    bus::{Full, Load, Permit},
    delivery::{
        outbox::{self, Outcome},
        registry::Session,
    },
    plugin::{Action, Answer, Closing, Delivery, Plugin, Publication, SessionId, Target},
    telemetry::{metrics::Metrics, text},
};
use bytes::Bytes;
use gateway_wire::packet::Header;
use std::{borrow::Cow, mem, sync::Arc};
use uuid::Uuid;

/// A packet that a plugin serves.
#[derive(Clone, Copy)]
pub(super) struct PacketCall<'a> {
    pub(super) served: &'a Arc<Served>,
    pub(super) session: &'a Arc<Session>,
    pub(super) header: Header,
    pub(super) payload: &'a Bytes,
}

/// A message of the bus that a plugin serves.
#[derive(Clone, Copy)]
pub(super) struct MessageCall<'a> {
    pub(super) served: &'a Arc<Served>,
    pub(super) topic: &'a str,
    pub(super) payload: &'a Bytes,
}

impl Gateway {
    /// Carries out what was decided on a packet, which puts `pushes` messages into send queues: all of it or nothing.
    pub(super) fn answer_packet(
        &self,
        call: &PacketCall<'_>,
        mut actions: Vec<Action>,
        pushes: usize,
    ) -> Result<(), Refusal> {
        let PacketCall { served, session, header, payload } = *call;
        check_bindings(session, &actions)?;
        self.check_pushes(&served.plugin, pushes)?;
        let publications = actions.iter().filter_map(Action::publication);
        let permit = self.reserve(served, publications, payload)?;
        for action in &mut actions {
            match action {
                Action::Publish(_) => {}
                // The session may have ended since the call began: then there is nothing to bind.
                Action::Bind(user) => drop(self.registry.bind(session, *user)),
                Action::Deliver(delivery) => self.deliver(served, delivery, payload),
                Action::Reply(Answer { status, body }) => {
                    let body = mem::take(body).into();
                    queued(&self.metrics, session, session.outbox.reply(header.reply(*status), body));
                }
                Action::Echo => {
                    queued(&self.metrics, session, session.outbox.reply(header.reply(0), payload.clone()));
                }
                Action::Close(Closing { code, reason }) => {
                    session.outbox.close(outbox::Closing { code: *code, reason: mem::take(reason), cause: "policy" });
                }
            }
        }
        if let Some(permit) = permit {
            let origin = Origin { session: session.id, header };
            self.commit(permit, actions.iter_mut().filter_map(Action::publication_mut), payload, Some(origin));
        }
        Ok(())
    }

    /// The same for what was decided on a message of the bus.
    pub(super) fn answer_message(
        &self,
        call: &MessageCall<'_>,
        mut actions: Vec<MessageAction>,
        pushes: usize,
    ) -> Result<(), Refusal> {
        let MessageCall { served, topic, payload } = *call;
        self.check_pushes(&served.plugin, pushes)?;
        let publications = || actions.iter().filter_map(MessageAction::publication);
        for publication in publications() {
            if self.causes.closes_circle(topic, &publication.topic) && !served.account.loops.permit() {
                self.publishes_refused(&served.plugin, &publication.topic, "publish_loop", publications().count());
                return Err(Refusal::Loop(text::bounded(&publication.topic)));
            }
        }
        let permit = self.reserve(served, publications(), payload)?;
        for action in &mut actions {
            if let MessageAction::Deliver(delivery) = action {
                self.deliver(served, delivery, payload);
            }
        }
        if let Some(permit) = permit {
            self.commit(permit, actions.iter_mut().filter_map(MessageAction::publication_mut), payload, None);
        }
        Ok(())
    }

    /// Reserves capacity of the bus for publishes, if there are any.
    fn reserve<'a, 'p>(
        &'a self,
        served: &'a Served,
        publications: impl Iterator<Item = &'p Publication> + Clone,
        payload: &Bytes,
    ) -> Result<Option<Permit<'a, Origin>>, Refusal> {
        let mut wanted = Load::default();
        for Publication { topic, body } in publications.clone() {
            wanted.publishes += 1;
            wanted.bytes += topic.len() + body.as_ref().map_or(payload.len(), Vec::len);
        }
        if wanted.publishes == 0 {
            return Ok(None);
        }
        self.bus.reserve(&served.account.share, wanted).map(Some).map_err(|full| match full {
            Full::Queue => Refusal::BusFull,
            Full::Share => {
                let topic = publications.clone().next().map_or("", |publication| &publication.topic);
                self.publishes_refused(&served.plugin, topic, "bus_share", wanted.publishes);
                Refusal::BusShare
            }
        })
    }

    fn commit<'a>(
        &self,
        permit: Permit<'_, Origin>,
        publications: impl Iterator<Item = &'a mut Publication>,
        payload: &Bytes,
        origin: Option<Origin>,
    ) {
        // A payload that may wait for long must not keep the read buffer alive that it is a slice of.
        let payload = if self.bus.is_away() { &Bytes::copy_from_slice(payload) } else { payload };
        permit.commit(publications.map(|Publication { topic, body }| {
            let body = body.take().map_or(Cow::Borrowed(payload), |body| Cow::Owned(body.into()));
            (topic.as_str(), body, origin)
        }));
    }

    fn publishes_refused(&self, plugin: &Plugin, topic: &str, reason: &'static str, publishes: usize) {
        plugin.publishes_refused(reason, publishes);
        if self.metrics.log_limits.permit("publishes refused", plugin.name()) {
            let (plugin, topic) = (&**plugin.name(), text::bounded(topic));
            tracing::warn!(
                plugin,
                topic,
                reason,
                publishes,
                "publishes refused: the plugin takes more of the bus than its part"
            );
        }
    }

    /// The messages that the deliveries among the actions put into send queues. A single delivery counts as one, whatever the number of its user's
    /// sessions, so that the usual decision costs no look at the registry.
    pub(super) fn pushes(&self, actions: &[Action]) -> usize {
        self.pushes_of(actions.iter().filter_map(|action| match action {
            Action::Deliver(delivery) => Some(delivery),
            _ => None,
        }))
    }

    /// The same for the decision on a message.
    pub(super) fn pushes_of_message(&self, actions: &[MessageAction]) -> usize {
        self.pushes_of(actions.iter().filter_map(|action| match action {
            MessageAction::Deliver(delivery) => Some(delivery),
            MessageAction::Publish(_) => None,
        }))
    }

    fn pushes_of<'a>(&self, mut deliveries: impl Iterator<Item = &'a Delivery> + Clone) -> usize {
        let all = deliveries.clone();
        if deliveries.nth(1).is_none() {
            return 1;
        }
        all.map(|delivery| match delivery.to {
            Target::User(user) => self.registry.sessions_of_user(user),
            Target::Session(_) => 1,
        })
        .sum()
    }

    fn check_pushes(&self, plugin: &Plugin, pushes: usize) -> Result<(), Refusal> {
        let max = plugin.settings().limits.pushes;
        if pushes <= max {
            return Ok(());
        }
        if self.metrics.log_limits.permit("too many pushes", plugin.name()) {
            let plugin = &**plugin.name();
            tracing::warn!(plugin, pushes, max, "a call's deliveries would reach more sessions than `pushes` allows");
        }
        Err(Refusal::TooManyPushes { pushes, max })
    }

    fn deliver(&self, served: &Served, delivery: &mut Delivery, payload: &Bytes) {
        let body = delivery.body.take().map_or_else(|| payload.clone(), Bytes::from);
        let mut pushes = 0;
        let mut push = |session: &Arc<Session>| {
            pushes += 1;
            queued(&self.metrics, session, session.outbox.push(delivery.route, body.clone()));
        };
        let is_here = match delivery.to {
            Target::User(user) => self.registry.each_of_user(user, push),
            Target::Session(SessionId { high, low }) => {
                self.registry.session(Uuid::from_u64_pair(high, low)).as_ref().map(&mut push).is_some()
            }
        };
        served.plugin.pushed(pushes);
        if is_here {
            self.metrics.delivered.inc();
        } else {
            self.metrics.undelivered.inc();
            log_absent(&served.plugin, delivery);
        }
    }
}

/// Names the target of a delivery that has no session on this gateway, for those who look for a message that did not arrive.
fn log_absent(plugin: &Plugin, delivery: &Delivery) {
    let (plugin, route) = (&**plugin.name(), delivery.route);
    match delivery.to {
        Target::User(user) => {
            tracing::debug!(plugin, route, user, "delivery not here: the user has no session on this gateway")
        }
        Target::Session(SessionId { high, low }) => {
            let session = Uuid::from_u64_pair(high, low);
            tracing::debug!(plugin, route, %session, "delivery not here: the session is not on this gateway");
        }
    }
}

impl MessageAction {
    fn publication(&self) -> Option<&Publication> {
        if let Self::Publish(publication) = self { Some(publication) } else { None }
    }

    fn publication_mut(&mut self) -> Option<&mut Publication> {
        if let Self::Publish(publication) = self { Some(publication) } else { None }
    }
}

impl Action {
    fn publication(&self) -> Option<&Publication> {
        if let Self::Publish(publication) = self { Some(publication) } else { None }
    }

    fn publication_mut(&mut self) -> Option<&mut Publication> {
        if let Self::Publish(publication) = self { Some(publication) } else { None }
    }
}

/// A session that has a user, or gets one by these actions, keeps it.
fn check_bindings(session: &Session, actions: &[Action]) -> Result<(), Refusal> {
    let mut user = session.user();
    let mut fits = |action: &Action| match action {
        Action::Bind(wanted) => *user.get_or_insert(*wanted) == *wanted,
        _ => true,
    };
    if actions.iter().all(&mut fits) { Ok(()) } else { Err(Refusal::BoundToAnother) }
}

/// Counts and logs a message that a send queue did not take.
pub(super) fn queued(metrics: &Metrics, session: &Session, outcome: Outcome) {
    match outcome {
        Outcome::Queued => {}
        Outcome::Full => {
            metrics.dropped("send_queue_full", 1);
            if metrics.log_limits.permit("send queue full", "") {
                let (session, remote) = (session.id, session.remote);
                tracing::warn!(%session, %remote, "send queue full: the client reads too slowly, messages are dropped");
            }
        }
        Outcome::Closed => metrics.dropped("session_closing", 1),
    }
}
