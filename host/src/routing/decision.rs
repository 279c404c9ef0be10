//! Checks a plugin's decision as a whole, before any of its actions is carried out.

use super::snapshot::Snapshot;
use crate::{
    plugin::{self, Action, Answer, Closing, Decision, Delivery, Publication, Rejection},
    telemetry::text,
};
use gateway_wire::packet::HEADER_LEN;

/// The largest number of bytes of a topic that an error shows.
const MAX_SHOWN_TOPIC_BYTES: usize = 128;

/// The rules that a plugin's decision has to follow.
pub(super) struct Rules<'a> {
    /// The snapshot that the call was made under.
    pub(super) snapshot: &'a Snapshot,
    /// The largest message in bytes, header included.
    pub(super) max_message_bytes: usize,
    /// The largest number of actions.
    pub(super) max_actions: usize,
}

/// An action that may follow from a bus message. All other actions need a packet.
pub(super) enum MessageAction {
    Publish(Publication),
    Deliver(Delivery),
}

impl Rules<'_> {
    /// Checks the decision on a packet.
    ///
    /// # Errors
    /// Returns a text that names the rule that the decision breaks.
    pub(super) fn check_packet(&self, decision: Decision) -> Result<Result<Vec<Action>, Rejection>, String> {
        match decision {
            Err(rejection) => check_rejection(rejection).map(Err),
            Ok(actions) => {
                self.check(&actions)?;
                Ok(Ok(actions))
            }
        }
    }

    /// Checks the decision on a bus message.
    ///
    /// # Errors
    /// Returns a text that names the rule that the decision breaks.
    pub(super) fn check_message(&self, decision: Decision) -> Result<Result<Vec<MessageAction>, Rejection>, String> {
        match decision {
            Err(rejection) => check_rejection(rejection).map(Err),
            Ok(actions) => {
                self.check(&actions)?;
                actions.into_iter().map(for_message).collect::<Result<_, _>>().map(Ok)
            }
        }
    }

    fn check(&self, actions: &[Action]) -> Result<(), String> {
        let max = self.max_actions;
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
        status @ (0 | 9..256) => {
            Err(format!("it rejected with status {status}, but a rejection has status 1 to 8, or 256 and above"))
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plugin::Target, telemetry::metrics::Metrics};

    #[track_caller]
    fn check(actions: &[Action], packet: Result<(), &str>, message: Result<(), &str>) {
        let snapshot = Snapshot::new(Vec::new(), None, &Metrics::new());
        let rules = Rules { snapshot: &snapshot, max_message_bytes: 100, max_actions: 2 };
        let text = |error: String| error;
        let found = [
            rules.check_packet(Ok(actions.to_vec())).map(drop).map_err(text),
            rules.check_message(Ok(actions.to_vec())).map(drop).map_err(text),
        ];
        for (found, expected) in found.into_iter().zip([packet, message]) {
            match (&found, expected) {
                (Ok(()), Ok(())) => {}
                (Err(error), Err(part)) if error.contains(part) => {}
                _ => panic!("{found:?} where {expected:?} was expected"),
            }
        }
    }

    fn publish(topic: &str) -> Action {
        Action::Publish(Publication { topic: topic.to_owned(), body: None })
    }

    #[test]
    fn a_decision_is_checked_as_a_whole() {
        check(&[publish("t"), publish("t")], Ok(()), Ok(()));
        check(&[publish("t"), publish("")], Err("a topic is 1 to 256 bytes"), Err("a topic is 1 to 256 bytes"));
        check(&vec![publish("t"); 3], Err("2 are the most (`actions`)"), Err("2 are the most (`actions`)"));
        let large = Action::Publish(Publication { topic: "t".to_owned(), body: Some(vec![0; 93]) });
        check(&[large], Err("(`max_message_bytes`)"), Err("(`max_message_bytes`)"));
    }

    #[test]
    fn only_a_packet_can_be_answered() {
        for action in [Action::Echo, Action::Bind(1), Action::Reply(Answer { status: 0, body: Vec::new() })] {
            check(&[action], Ok(()), Err("only a packet can be answered"));
        }
    }

    #[test]
    fn a_delivery_needs_a_route_of_the_calls_own_snapshot() {
        let delivery = Action::Deliver(Delivery { to: Target::User(1), route: 1, body: None });
        check(&[delivery], Err("route 0x01, which no plugin serves"), Err("route 0x01, which no plugin serves"));
    }

    #[test]
    fn the_text_of_an_error_is_bounded() {
        let topic = "\u{7}".repeat(1 << 20);
        let snapshot = Snapshot::new(Vec::new(), None, &Metrics::new());
        let rules = Rules { snapshot: &snapshot, max_message_bytes: 100, max_actions: 2 };
        let error = rules.check_packet(Ok(vec![publish(&topic)])).map(drop).unwrap_err();
        assert!(error.len() < 300, "{} bytes", error.len());
    }
}
