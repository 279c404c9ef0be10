//! What a plugin decided, checked as a whole before any of it is carried out. What comes out can be carried out.

use super::snapshot::Snapshot;
use crate::{
    packet::HEADER_LEN,
    plugin::{self, Action, Answer, Closing, Decision, Delivery, Plugin, Publication, Rejection},
    telemetry::text,
};

/// The bytes of a topic that an error shows.
const MAX_SHOWN_TOPIC_BYTES: usize = 128;

/// What a plugin may answer.
pub(super) struct Rules<'a> {
    /// The snapshot that the call was made under.
    pub(super) snapshot: &'a Snapshot,
    /// The longest message in bytes, header included.
    pub(super) max_message_bytes: usize,
}

/// An action that a bus message may lead to: there is no packet to answer.
pub(super) enum MessageAction {
    Publish(Publication),
    Deliver(Delivery),
}

impl Rules<'_> {
    /// Checks what was decided on a packet.
    ///
    /// # Errors
    /// What no plugin may answer a packet with.
    pub(super) fn check_packet(
        &self,
        plugin: &Plugin,
        decision: Decision,
    ) -> Result<Result<Vec<Action>, Rejection>, String> {
        match decision {
            Err(rejection) => check_rejection(rejection).map(Err),
            Ok(actions) => {
                self.check(plugin, &actions)?;
                Ok(Ok(actions))
            }
        }
    }

    /// Checks what was decided on a bus message.
    ///
    /// # Errors
    /// What no plugin may answer a bus message with.
    pub(super) fn check_message(
        &self,
        plugin: &Plugin,
        decision: Decision,
    ) -> Result<Result<Vec<MessageAction>, Rejection>, String> {
        match decision {
            Err(rejection) => check_rejection(rejection).map(Err),
            Ok(actions) => {
                self.check(plugin, &actions)?;
                actions.into_iter().map(for_message).collect::<Result<_, _>>().map(Ok)
            }
        }
    }

    fn check(&self, plugin: &Plugin, actions: &[Action]) -> Result<(), String> {
        let max = plugin.settings().limits.actions;
        if actions.len() > max {
            return Err(format!("it answered with {} actions, and {max} are the most (`actions`)", actions.len()));
        }
        actions.iter().try_for_each(|action| self.check_action(action))
    }

    fn check_action(&self, action: &Action) -> Result<(), String> {
        match action {
            Action::Publish(Publication { topic, .. }) if !plugin::is_topic(topic) => {
                let topic = text::bounded_to(MAX_SHOWN_TOPIC_BYTES, topic);
                Err(format!("it publishes on \"{topic}\", and {}", plugin::TOPIC_RULE))
            }
            Action::Deliver(Delivery { route, .. }) if self.snapshot.route(*route).is_none() => {
                Err(format!("it delivers on route 0x{route:02x}, which no plugin serves"))
            }
            Action::Publish(Publication { body, .. }) | Action::Deliver(Delivery { body, .. }) => {
                body.as_ref().map_or(Ok(()), |body| self.check_body(body))
            }
            Action::Reply(Answer { status: status @ 9..256, .. }) => {
                Err(format!("its reply has status {status}, and 9 to 255 are reserved"))
            }
            Action::Reply(Answer { body, .. }) => self.check_body(body),
            Action::Close(Closing { code, reason }) if !matches!(code, 1000 | 3000..=4999) || reason.len() > 123 => {
                let bytes = reason.len();
                Err(format!(
                    "it closes with {code} and {bytes} bytes of reason; 1000, 3000 to 4999, and 123 bytes are allowed"
                ))
            }
            Action::Bind(_) | Action::Echo | Action::Close(_) => Ok(()),
        }
    }

    fn check_body(&self, body: &[u8]) -> Result<(), String> {
        let (bytes, max) = (body.len(), self.max_message_bytes - HEADER_LEN);
        if bytes <= max {
            return Ok(());
        }
        Err(format!("its message has {bytes} bytes, and {max} are the most (`max_message_bytes`)"))
    }
}

fn check_rejection(rejection: Rejection) -> Result<Rejection, String> {
    match rejection.status {
        status @ (0 | 9..256) => Err(format!("it rejected with status {status}, which is no rejection")),
        _ => Ok(rejection),
    }
}

fn for_message(action: Action) -> Result<MessageAction, String> {
    match action {
        Action::Publish(publication) => Ok(MessageAction::Publish(publication)),
        Action::Deliver(delivery) => Ok(MessageAction::Deliver(delivery)),
        Action::Bind(_) | Action::Reply(_) | Action::Echo | Action::Close(_) => {
            Err("only a packet can be answered with that action".to_owned())
        }
    }
}
