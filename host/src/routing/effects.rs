//! Carries out single actions on sessions, groups and timers.

use super::{
    calls::{Call, uuid},
    reach::Reach,
    traced::Traced,
    turn,
};
use crate::{
    delivery::{
        self,
        outbox::{self, Outcome},
        registry::Registry,
        session::{BindError, Session},
    },
    plugin::{
        Action, Alarm, Answer, Closing, Delivery, Ending, Holder, Interest, Keep, Measurement, Membership, Plugin,
        Tagging, Target,
    },
    telemetry::metrics::Metrics,
};
use bytes::Bytes;
use std::{mem, sync::Arc};

/// Carries out the actions of one call, one by one.
pub(super) struct Effects<'a> {
    pub(super) registry: &'a Registry,
    pub(super) metrics: &'a Metrics,
    pub(super) call: &'a Call<'a>,
    /// The call's span, if it is recorded.
    pub(super) traced: Option<&'a Traced<'a>>,
}

impl Effects<'_> {
    /// Carries out one action, and returns what it led to. Publishes and writes to the state are carried out for the
    /// whole call.
    pub(super) fn carry_out(&self, action: &mut Action) -> Reach {
        let Self { registry, call, .. } = self;
        let account = &call.served.account;
        let owner = &account.owner;
        match action {
            Action::Publish(_) | Action::Put(_) => {}
            Action::Bind(user) => {
                if let Some(session) = call.session() {
                    self.bind(session, *user);
                }
            }
            Action::Reply(Answer { status, body }) => self.reply(*status, mem::take(body).into()),
            Action::Echo => self.reply(0, call.payload().cloned().unwrap_or_default()),
            Action::Deliver(delivery) => return self.deliver(delivery),
            Action::End(ending) => return self.end(ending),
            Action::Join(Membership { session, group }) => registry.join(owner, uuid(*session), *group),
            Action::Leave(Membership { session, group }) => registry.leave(owner, uuid(*session), *group),
            Action::Listen(Interest { holder, topic }) => {
                let began = registry.listen(owner, held_by(holder), topic);
                if let (Some(began), Some(session)) = (began, call.session()) {
                    session.set_listens_since(began);
                }
            }
            Action::Unlisten(Interest { holder, topic }) => registry.unlisten(owner, held_by(holder), topic),
            Action::SetTag(Tagging { session, tag }) => registry.set_tag(owner, uuid(*session), *tag),
            Action::Wake(Alarm { key, after_ms: Some(after_ms) }) => account.timers.set_timer(*key, *after_ms),
            Action::Wake(Alarm { key, after_ms: None }) => account.timers.cancel(*key),
            Action::Measure(Measurement { metric, value }) => {
                if let Some(metrics) = &call.served.metrics {
                    metrics.measure(*metric, *value);
                }
                return Reach::NotHere;
            }
        }
        Reach::Here
    }

    fn bind(&self, session: &Arc<Session>, user: i64) {
        match self.registry.bind(session, user) {
            // The oldest sessions are closed for a session that has begun. A session that a plugin is asked about may
            // still be denied.
            Ok(true) if self.call.header().is_some() => self.registry.close_oldest_of_user(session),
            // Another session of the user was bound after the call was checked, at the same moment.
            Err(BindError::TooManySessions) => session.outbox.close(outbox::Closing::another_session()),
            // An ended session needs no user.
            Ok(_) | Err(BindError::BoundToAnother | BindError::Ended) => {}
        }
    }

    fn reply(&self, status: u16, body: Bytes) {
        if let (Some(session), Some(header)) = (self.call.session(), self.call.header()) {
            count_if_dropped(self.metrics, session, session.outbox.reply(header.reply(status), body));
        }
    }

    fn deliver(&self, delivery: &mut Delivery) -> Reach {
        let call = self.call;
        let body = delivery.body.take().map(Bytes::from).or_else(|| call.payload().cloned()).unwrap_or_default();
        let keep = match delivery.keep {
            Keep::Always => outbox::Keep::Always,
            Keep::MayDrop => outbox::Keep::MayDrop,
            Keep::Latest(key) => outbox::Keep::Latest { owner: call.served.account.owner.id, key },
        };
        let except = delivery.except.map(uuid);
        let traced = self.traced.and_then(|traced| Some((traced, traced.deliver()?)));
        let (mut pushes, mut dropped) = (0, 0);
        let is_on_this_gateway = self.each(&delivery.to, |session| {
            if Some(session.id) != except {
                pushes += 1;
                let pushed = session.outbox.push(delivery.route, body.clone(), keep);
                if pushed == Outcome::Unannounced {
                    turn::write_later(session);
                }
                dropped += count_if_dropped(self.metrics, session, pushed);
            }
        });
        call.served.plugin.pushed(pushes);
        if let Some((traced, span)) = traced {
            traced.delivered(&span, delivery, body.len(), pushes, dropped);
        }
        if is_on_this_gateway {
            self.metrics.delivered.inc();
            Reach::Here
        } else {
            self.metrics.undelivered.inc();
            log_undelivered(&call.served.plugin, delivery);
            Reach::NotHere
        }
    }

    fn end(&self, Ending { whom, closing: Closing { code, reason } }: &Ending) -> Reach {
        let is_on_this_gateway = self.each(whom, |session| {
            session.outbox.close(outbox::Closing { code: *code, reason: reason.clone(), cause: "policy" });
        });
        if is_on_this_gateway { Reach::Here } else { Reach::NotHere }
    }

    /// Calls `visit` for each session of the target. Returns whether there is any on this gateway.
    fn each(&self, target: &Target, mut visit: impl FnMut(&Arc<Session>)) -> bool {
        match target {
            Target::Sender => self.call.session().map(visit).is_some(),
            Target::Session(session) => self.registry.session(uuid(*session)).as_ref().map(&mut visit).is_some(),
            Target::User(user) => self.registry.each_of_user(*user, visit),
            Target::Group(group) => self.registry.each_of_group(&self.call.served.account.owner, *group, visit),
        }
    }
}

/// Returns the holder that a plugin names.
pub(super) fn held_by(holder: &Holder) -> delivery::registry::Holder {
    match holder {
        Holder::Session(session) => delivery::registry::Holder::Session(uuid(*session)),
        Holder::Group(group) => delivery::registry::Holder::Group(*group),
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
        Target::Session(session) => {
            let session = uuid(session);
            tracing::debug!(plugin, route, %session, "delivery not here: the session is not on this gateway");
        }
        Target::Group(group) => {
            tracing::debug!(plugin, route, group, "delivery not here: the group has no members");
        }
        Target::Sender => {}
    }
}

/// Counts and logs a message that a send queue refused or dropped. Returns how many messages were dropped.
pub(super) fn count_if_dropped(metrics: &Metrics, session: &Session, outcome: Outcome) -> usize {
    let dropped = match outcome {
        Outcome::Queued | Outcome::Unannounced => return 0,
        Outcome::Replaced => {
            metrics.replaced.inc();
            return 0;
        }
        Outcome::Closed => {
            metrics.dropped("session_closing", 1);
            return 1;
        }
        Outcome::Full => 1,
        Outcome::Evicted(older) => older,
    };
    metrics.dropped("send_queue_full", dropped);
    if metrics.log_limits.permit("send queue full", "") {
        let (session, remote) = (session.id, session.remote());
        tracing::warn!(%session, %remote, "send queue full: the client reads too slowly, messages are dropped");
    }
    dropped
}
