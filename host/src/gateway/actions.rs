//! What a plugin answered, checked and carried out.

use super::{Gateway, Origin, Refusal};
use crate::{
    bus::Publication,
    metrics::Metrics,
    outbox::{self, Outcome},
    packet::{HEADER_LEN, Header},
    plugin::{self, Action, Answer, Closing, Decision, Delivery, Fault, Plugin, Rejection, SessionId, Target},
    registry::Session,
};
use bytes::Bytes;
use std::sync::Arc;
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
            Ok(Err(rejection)) => return Err(self.rejected(call, rejection)),
            Err(fault) => return Err(self.fault(call, &fault)),
        };
        self.check(call, &actions)?;
        let publishes = actions.iter().filter(|action| matches!(action, Action::Publish(_))).count();
        let mut permits = self.bus.reserve(publishes).ok_or(Refusal::BusFull)?;
        for action in actions {
            match (action, call.origin) {
                (Action::Publish(publication), _) => {
                    let body = publication.body.map_or_else(|| call.payload.clone(), Bytes::from);
                    let origin = call.origin.map(|(session, header)| Origin { session: Arc::clone(session), header });
                    permits.publish(Publication { topic: publication.topic, body, origin });
                }
                (Action::Deliver(delivery), _) => self.deliver(delivery, call.payload),
                (Action::Bind(user), Some((session, _))) => {
                    self.registry.bind(session, user).map_err(|_| Refusal::BoundToAnother)?;
                }
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

    /// Looks at every action before the first is carried out.
    fn check(&self, call: &Call<'_>, actions: &[Action]) -> Result<(), Refusal> {
        let invalid = |why: String| Err(self.fault(call, &Fault::Answer(why)));
        let most = call.plugin.most_actions();
        if actions.len() > most {
            return invalid(format!("it answered with {} actions, and {most} are the most (`actions`)", actions.len()));
        }
        let most = self.max_message_bytes - HEADER_LEN;
        let mut user = call.origin.and_then(|(session, _)| session.user());
        for action in actions {
            let body = match action {
                Action::Publish(publication) => &publication.body,
                Action::Deliver(delivery) => &delivery.body,
                Action::Reply(Answer { body, .. }) if body.len() > most => {
                    return invalid(format!(
                        "its reply has {} bytes, and {most} are the most (`max_message_bytes`)",
                        body.len()
                    ));
                }
                _ => &None,
            };
            if body.as_ref().is_some_and(|body| body.len() > most) {
                return invalid(format!("its message is over {most} bytes, the most (`max_message_bytes`)"));
            }
            match action {
                Action::Publish(publication) if !plugin::is_topic(&publication.topic) => {
                    return invalid(format!("it publishes on {:?}, and {}", publication.topic, plugin::TOPIC_RULE));
                }
                Action::Deliver(delivery) if self.snapshot.load().route(delivery.route).is_none() => {
                    return invalid(format!("it delivers on route 0x{:02x}, which no plugin serves", delivery.route));
                }
                Action::Publish(_) | Action::Deliver(_) => {}
                _ if call.origin.is_none() => {
                    return invalid("only a packet can be answered with that action".to_owned());
                }
                Action::Bind(wanted) if *user.get_or_insert(*wanted) != *wanted => return Err(Refusal::BoundToAnother),
                Action::Reply(Answer { status: status @ 9..256, .. }) => {
                    return invalid(format!("its reply has status {status}, and 9 to 255 are reserved"));
                }
                Action::Close(Closing { code, reason })
                    if !matches!(code, 1000 | 3000..=4999) || reason.len() > 123 =>
                {
                    return invalid(format!(
                        "it closes with {code} and {} bytes of reason; 1000 and 3000 to 4999, and 123 bytes, are allowed",
                        reason.len()
                    ));
                }
                Action::Bind(_) | Action::Reply(_) | Action::Echo | Action::Close(_) => {}
            }
        }
        Ok(())
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

    fn rejected(&self, call: &Call<'_>, mut rejection: Rejection) -> Refusal {
        if matches!(rejection.status, 0 | 9..256) {
            let why = format!("it rejected with status {}, which is no rejection", rejection.status);
            return self.fault(call, &Fault::Answer(why));
        }
        rejection.message.truncate(rejection.message.floor_char_boundary(REJECTION_BYTES));
        Refusal::Rejected(rejection)
    }

    fn fault(&self, call: &Call<'_>, fault: &Fault) -> Refusal {
        if matches!(fault, Fault::Answer(_)) {
            call.plugin.invalid();
        }
        if let Some(held_back) = call.plugin.fault_log.permit() {
            let plugin = &**call.plugin.name();
            tracing::error!(plugin, version = call.plugin.version(), held_back, "plugin call failed: {fault}");
        }
        Refusal::Fault
    }
}

/// Counts and logs a message that a send queue did not take.
pub(super) fn queued(metrics: &Metrics, session: &Session, outcome: Outcome) {
    match outcome {
        Outcome::Queued => {}
        Outcome::Full { warn } => {
            metrics.dropped("send_queue_full", 1);
            if warn {
                let (session, remote) = (session.id, session.remote);
                tracing::warn!(%session, %remote, "send queue full: the client reads too slowly, messages are dropped");
            }
        }
        Outcome::Closed => metrics.dropped("session_closing", 1),
    }
}
