//! Carries out the actions of a decision.
//!
//! First, capacity of the bus is reserved. Then all other actions are carried out in the order of the list. Finally,
//! the publishes are committed in one step. So the bus sees a call's publishes after the call's other actions.
//! Otherwise the answer to a publish could arrive before the session is bound, or overtake a delivery of the same call.

use super::{decision::MessageAction, loops::Causes, origin::Origin, refusal::Refusal, snapshot::ServingPlugin};
use crate::{
    bus::{Full, Load, Permit, Queue},
    delivery::{
        outbox::{self, Outcome},
        registry::{Registry, Session},
    },
    plugin::{Action, Answer, Closing, Delivery, Plugin, Publication, SessionId, Target},
    telemetry::{metrics::Metrics, text},
};
use bytes::Bytes;
use gateway_wire::packet::Header;
use std::{borrow::Cow, mem, sync::Arc};
use uuid::Uuid;

/// The call of a plugin for a packet.
#[derive(Clone, Copy)]
pub(super) struct PacketCall<'a> {
    pub(super) served: &'a Arc<ServingPlugin>,
    pub(super) session: &'a Arc<Session>,
    pub(super) header: Header,
    pub(super) payload: &'a Bytes,
}

/// The call of a plugin for a bus message.
#[derive(Clone, Copy)]
pub(super) struct MessageCall<'a> {
    pub(super) served: &'a Arc<ServingPlugin>,
    pub(super) topic: &'a str,
    pub(super) payload: &'a Bytes,
}

/// Carries out actions on the sessions and the bus.
pub(super) struct Executor {
    pub(super) registry: Arc<Registry>,
    pub(super) bus: Arc<Queue<Origin>>,
    pub(super) causes: Causes,
    pub(super) metrics: Arc<Metrics>,
}

impl Executor {
    /// Carries out the actions that were decided on a packet, all or none. They put `pushes` messages into send queues.
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
                // An error means that the session has ended since the call began. An ended session needs no user.
                Action::Bind(user) => drop(self.registry.bind(session, *user)),
                Action::Deliver(delivery) => self.deliver(served, delivery, payload),
                Action::Reply(Answer { status, body }) => {
                    let body = mem::take(body).into();
                    count_if_dropped(&self.metrics, session, session.outbox.reply(header.reply(*status), body));
                }
                Action::Echo => {
                    count_if_dropped(&self.metrics, session, session.outbox.reply(header.reply(0), payload.clone()));
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

    /// Carries out the actions that were decided on a bus message, all or none. They put `pushes` messages into send
    /// queues.
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
            if self.causes.closes_cycle(topic, &publication.topic) && !served.account.loops.permit() {
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

    /// Reserves capacity of the bus for the publishes. Returns `None` if there are no publishes.
    fn reserve<'a, 'p>(
        &'a self,
        served: &'a ServingPlugin,
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
        // While the bus is not connected, a payload may wait for a long time. It is copied, because a slice would keep
        // its whole read buffer alive.
        let payload = if self.bus.is_disconnected() { &Bytes::copy_from_slice(payload) } else { payload };
        permit.commit(publications.map(|Publication { topic, body }| {
            let body = body.take().map_or(Cow::Borrowed(payload), |body| Cow::Owned(body.into()));
            (topic.as_str(), body, origin)
        }));
    }

    fn publishes_refused(&self, plugin: &Plugin, topic: &str, reason: &'static str, publishes: usize) {
        plugin.publishes_refused(reason, publishes);
        if self.metrics.log_limits.permit("publishes refused", plugin.name()) {
            let (plugin, topic) = (&**plugin.name(), text::bounded(topic));
            tracing::warn!(plugin, topic, reason, publishes, "publishes of the plugin refused");
        }
    }

    /// Counts the messages that the deliveries among the actions put into send queues. The result is 1 if there are
    /// fewer than two deliveries, so that the usual decision needs no look-up in the registry.
    pub(super) fn count_pushes(&self, actions: &[Action]) -> usize {
        self.pushes_of(actions.iter().filter_map(|action| match action {
            Action::Deliver(delivery) => Some(delivery),
            _ => None,
        }))
    }

    /// Counts the messages of a decision on a bus message, as [`Self::count_pushes`] does.
    pub(super) fn count_pushes_of_message(&self, actions: &[MessageAction]) -> usize {
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

    fn deliver(&self, served: &ServingPlugin, delivery: &mut Delivery, payload: &Bytes) {
        let body = delivery.body.take().map_or_else(|| payload.clone(), Bytes::from);
        let mut pushes = 0;
        let mut push = |session: &Arc<Session>| {
            pushes += 1;
            count_if_dropped(&self.metrics, session, session.outbox.push(delivery.route, body.clone()));
        };
        let is_on_this_gateway = match delivery.to {
            Target::User(user) => self.registry.each_of_user(user, push),
            Target::Session(SessionId { high, low }) => {
                self.registry.session(Uuid::from_u64_pair(high, low)).as_ref().map(&mut push).is_some()
            }
        };
        served.plugin.pushed(pushes);
        if is_on_this_gateway {
            self.metrics.delivered.inc();
        } else {
            self.metrics.undelivered.inc();
            log_undelivered(&served.plugin, delivery);
        }
    }
}

/// Logs the target of a delivery that has no session on this gateway. The line helps to find a message that did not
/// arrive.
fn log_undelivered(plugin: &Plugin, delivery: &Delivery) {
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

/// Checks that the actions bind the session to no second user. The first user is the one that the session has already,
/// or else the first one in the actions.
fn check_bindings(session: &Session, actions: &[Action]) -> Result<(), Refusal> {
    let mut user = session.user();
    let mut fits = |action: &Action| match action {
        Action::Bind(wanted) => *user.get_or_insert(*wanted) == *wanted,
        _ => true,
    };
    if actions.iter().all(&mut fits) { Ok(()) } else { Err(Refusal::BoundToAnother) }
}

/// Counts and logs a message that a send queue refused.
pub(super) fn count_if_dropped(metrics: &Metrics, session: &Session, outcome: Outcome) {
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
