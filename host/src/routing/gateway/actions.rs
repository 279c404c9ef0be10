//! What a plugin answered, checked and carried out.

use super::{Gateway, Origin, Refusal};
use crate::{
    delivery::outbox::{self, Outcome},
    delivery::registry::Session,
    packet::{HEADER_LEN, Header},
    plugin::{
        self, Action, Answer, Closing, Decision, Delivery, Fault, Plugin, Publication, Rejection, SessionId, Target,
    },
    telemetry::metrics::Metrics,
};
use bytes::Bytes;
use std::{borrow::Cow, sync::Arc};
use uuid::Uuid;

/// The bytes of a rejection's text that reach the client.
const REJECTION_BYTES: usize = 1024;

/// What a plugin was called with.
pub(super) struct Call<'a> {
    pub(super) plugin: &'a Plugin,
    pub(super) origin: Option<(&'a Arc<Session>, Header)>,
    pub(super) payload: &'a Bytes,
}

impl Gateway {
    /// Carries the actions of a call out: all of them or none.
    pub(super) fn perform(&self, call: &Call<'_>, decision: Result<Decision, Fault>) -> Result<(), Refusal> {
        let actions = match decision {
            Ok(Ok(actions)) => actions,
            Ok(Err(mut rejection)) => {
                rejection.message.truncate(rejection.message.floor_char_boundary(REJECTION_BYTES));
                return Err(Refusal::Rejected(rejection));
            }
            Err(error) => return Err(fault(&self.metrics, call.plugin, &error)),
        };
        bindable(call, &actions)?;
        let publishes = actions.iter().filter(|action| matches!(action, Action::Publish(_))).count();
        // Held until the last action is done: what is answered to a publish comes after all of them.
        let mut room = self.bus.room(publishes).ok_or(Refusal::BusFull)?;
        for action in actions {
            match (action, call.origin) {
                (Action::Publish(Publication { topic, body }), _) => {
                    let body = body.map_or(Cow::Borrowed(call.payload), |body| Cow::Owned(body.into()));
                    let origin = call.origin.map(|(session, header)| Origin { session: session.id, header });
                    room.publish(&topic, body, origin);
                }
                (Action::Bind(user), Some((session, _))) => {
                    self.registry.bind(session, user).map_err(|_| Refusal::BoundToAnother)?;
                }
                (Action::Deliver(delivery), _) => self.deliver(delivery, call.payload),
                (Action::Reply(Answer { status, body }), Some((session, header))) => {
                    queued(&self.metrics, session, session.outbox.reply(header.reply(status), body.into()));
                }
                (Action::Echo, Some((session, header))) => {
                    queued(&self.metrics, session, session.outbox.reply(header.reply(0), call.payload.clone()));
                }
                (Action::Close(Closing { code, reason }), Some((session, _))) => {
                    session.outbox.close(outbox::Closing { code, reason, cause: "policy" });
                }
                (_, None) => {}
            }
        }
        Ok(())
    }

    /// Looks at all that a plugin answered, before any of it is carried out. `packet`: whether there is one to answer.
    ///
    /// # Errors
    /// What no plugin may answer with.
    pub(super) fn valid(&self, plugin: &Plugin, packet: bool, decision: &Decision) -> Result<(), String> {
        let actions = match decision {
            Ok(actions) => actions,
            Err(Rejection { status: status @ (0 | 9..256), .. }) => {
                return Err(format!("it rejected with status {status}, which is no rejection"));
            }
            Err(_) => return Ok(()),
        };
        let most = plugin.most_actions();
        if actions.len() > most {
            return Err(format!("it answered with {} actions, and {most} are the most (`actions`)", actions.len()));
        }
        actions.iter().try_for_each(|action| self.valid_action(packet, action))
    }

    fn valid_action(&self, packet: bool, action: &Action) -> Result<(), String> {
        let most = self.max_message_bytes - HEADER_LEN;
        let body = match action {
            Action::Publish(Publication { body, .. }) | Action::Deliver(Delivery { body, .. }) => body.as_ref(),
            Action::Reply(Answer { body, .. }) => Some(body),
            Action::Bind(_) | Action::Echo | Action::Close(_) => None,
        };
        if let Some(body) = body.filter(|body| body.len() > most) {
            let bytes = body.len();
            return Err(format!("its message has {bytes} bytes, and {most} are the most (`max_message_bytes`)"));
        }
        match action {
            Action::Publish(publication) if !plugin::is_topic(&publication.topic) => {
                Err(format!("it publishes on {:?}, and {}", publication.topic, plugin::TOPIC_RULE))
            }
            Action::Deliver(delivery) if self.snapshot.load().route(delivery.route).is_none() => {
                Err(format!("it delivers on route 0x{:02x}, which no plugin serves", delivery.route))
            }
            Action::Publish(_) | Action::Deliver(_) => Ok(()),
            _ if !packet => Err("only a packet can be answered with that action".to_owned()),
            Action::Reply(Answer { status: status @ 9..256, .. }) => {
                Err(format!("its reply has status {status}, and 9 to 255 are reserved"))
            }
            Action::Close(Closing { code, reason }) if !matches!(code, 1000 | 3000..=4999) || reason.len() > 123 => {
                let bytes = reason.len();
                Err(format!(
                    "it closes with {code} and {bytes} bytes of reason; 1000, 3000 to 4999, and 123 bytes are allowed"
                ))
            }
            Action::Bind(_) | Action::Reply(_) | Action::Echo | Action::Close(_) => Ok(()),
        }
    }

    fn deliver(&self, delivery: Delivery, payload: &Bytes) {
        let body = delivery.body.map_or_else(|| payload.clone(), Bytes::from);
        let push =
            |session: &Arc<Session>| queued(&self.metrics, session, session.outbox.push(delivery.route, body.clone()));
        let here = match delivery.to {
            Target::User(user) => self.registry.each_of_user(user, push),
            Target::Session(SessionId { high, low }) => {
                self.registry.session(Uuid::from_u64_pair(high, low)).as_ref().map(push).is_some()
            }
        };
        if here { &self.metrics.delivered } else { &self.metrics.undelivered }.inc();
    }
}

/// A session that has a user, or gets one by these actions, keeps it.
fn bindable(call: &Call<'_>, actions: &[Action]) -> Result<(), Refusal> {
    let mut user = call.origin.and_then(|(session, _)| session.user());
    let mut fits = |action: &Action| match action {
        Action::Bind(wanted) => *user.get_or_insert(*wanted) == *wanted,
        _ => true,
    };
    if actions.iter().all(&mut fits) { Ok(()) } else { Err(Refusal::BoundToAnother) }
}

fn fault(metrics: &Metrics, plugin: &Plugin, fault: &Fault) -> Refusal {
    if metrics.log_limits.permit("plugin call failed", plugin.name()) {
        let (name, version) = (&**plugin.name(), plugin.version());
        tracing::error!(plugin = name, version, "plugin call failed: {fault}");
    }
    Refusal::Fault
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
