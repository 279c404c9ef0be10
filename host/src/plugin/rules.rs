//! The rules that a plugin's answer has to follow. An answer is checked as a whole, before any of its actions is carried
//! out. `gateway plugin test` checks answers as a gateway does.

use super::{
    bindings::{
        Action, Admission, Closing, Decision, Delivery, Denial, Ending, Entry, Interest, Measurement, Metric,
        MetricKind, Publication, Rejection, Target,
    },
    interface::Takes,
    store::MAX_KEY_BYTES,
    topics::{TOPIC_RULE, is_topic},
};
use crate::telemetry::text;
use gateway_wire::packet::HEADER_LEN;

/// The largest number of bytes of a topic or a key that an error shows.
const MAX_SHOWN_BYTES: usize = 128;

/// The largest number of attributes that a plugin may give to a session.
const MAX_ATTRIBUTES: usize = 32;

/// The largest length of the name of an attribute, in bytes.
const MAX_ATTRIBUTE_NAME_BYTES: usize = 64;

/// The largest length of the value of an attribute, in bytes.
const MAX_ATTRIBUTE_VALUE_BYTES: usize = 1024;

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// A packet of a session.
    Packet,
    /// A message of the bus.
    Message,
    /// A session that begins or ends, or whose client is away or back.
    Session,
    /// A timer.
    Timer,
}

/// The rules for the answer of a call.
pub struct Rules<'a, S> {
    /// What the call is about.
    pub about: About,
    /// The largest message in bytes, header included.
    pub max_message_bytes: usize,
    /// The largest number of actions.
    pub max_actions: usize,
    /// The calls that the plugin takes.
    pub takes: Takes,
    /// The metrics in the plugin's manifest.
    pub metrics: &'a [Metric],
    /// Returns whether some plugin serves a route.
    pub serves: S,
}

impl<S: Fn(u8) -> bool> Rules<'_, S> {
    /// Checks a decision.
    ///
    /// # Errors
    /// Returns a text that names the rule that the decision breaks.
    pub fn check(&self, decision: &Decision) -> Result<(), String> {
        match decision {
            Ok(actions) => self.check_actions(actions),
            Err(rejection) => check_rejection(rejection),
        }
    }

    /// Checks an answer to a client that asks for a session.
    ///
    /// # Errors
    /// Returns a text that names the rule that the answer breaks.
    pub fn check_connect(&self, answer: &Result<Admission, Denial>) -> Result<(), String> {
        match answer {
            Ok(Admission { attributes, actions, .. }) => {
                self.check_actions(actions)?;
                check_attributes(attributes)
            }
            Err(denial) => check_denial(denial),
        }
    }

    fn check_actions(&self, actions: &[Action]) -> Result<(), String> {
        let max = self.max_actions;
        if actions.len() > max {
            return Err(format!("it answered with {} actions, and {max} are the most (`actions`)", actions.len()));
        }
        actions.iter().try_for_each(|action| self.check_action(action))
    }

    fn check_action(&self, action: &Action) -> Result<(), String> {
        match action {
            Action::Publish(Publication { topic, body }) => {
                check_topic("publishes on", topic)?;
                self.check_body(body.as_deref())
            }
            Action::Deliver(Delivery { to, route, body, .. }) => {
                self.check_target(to)?;
                if !(self.serves)(*route) {
                    return Err(format!("it delivers on route 0x{route:02x}, which no plugin serves"));
                }
                self.check_body(body.as_deref())
            }
            Action::Bind(_) | Action::Echo => self.check_packet(),
            Action::Reply(answer) => {
                self.check_packet()?;
                if let status @ 9..256 = answer.status {
                    return Err(format!("its reply has status {status}, and 9 to 255 are reserved"));
                }
                self.check_body(Some(&answer.body))
            }
            Action::End(Ending { whom, closing }) => {
                self.check_target(whom)?;
                check_closing(closing)
            }
            Action::Listen(Interest { topic, .. }) | Action::Unlisten(Interest { topic, .. }) => {
                if !self.takes.messages {
                    return Err("it listens to a topic, but does not export `gateway:policy/hearing`".to_owned());
                }
                check_topic("listens to", topic)
            }
            Action::Put(Entry { key, .. }) if !(1..=MAX_KEY_BYTES).contains(&key.len()) => {
                let (bytes, key) = (key.len(), text::bounded_to(MAX_SHOWN_BYTES, key));
                Err(format!("it writes the key \"{key}\" of {bytes} bytes, and a key has 1 to {MAX_KEY_BYTES} bytes"))
            }
            Action::Wake(_) if !self.takes.timers => {
                Err("it sets a timer, but does not export `gateway:policy/timers`".to_owned())
            }
            Action::Measure(measurement) => self.check_measurement(measurement),
            Action::Put(_) | Action::Join(_) | Action::Leave(_) | Action::SetTag(_) | Action::Wake(_) => Ok(()),
        }
    }

    fn check_packet(&self) -> Result<(), String> {
        let no_packet = || "only a packet can be answered with that action".to_owned();
        (self.about == About::Packet).then_some(()).ok_or_else(no_packet)
    }

    fn check_target(&self, target: &Target) -> Result<(), String> {
        let has_sender = matches!(self.about, About::Packet | About::Session);
        if matches!(target, Target::Sender) && !has_sender {
            return Err("this call has no sender that an action could mean".to_owned());
        }
        Ok(())
    }

    fn check_body(&self, body: Option<&[u8]>) -> Result<(), String> {
        let Some(body) = body else {
            let has_payload = matches!(self.about, About::Packet | About::Message);
            let no_payload = || "it sends the payload of the call, but this call has no payload".to_owned();
            return has_payload.then_some(()).ok_or_else(no_payload);
        };
        let (bytes, max) = (body.len(), self.max_message_bytes - HEADER_LEN);
        if bytes <= max {
            return Ok(());
        }
        Err(format!("its message has {bytes} bytes, and {max} are the most (`max_message_bytes`)"))
    }

    fn check_measurement(&self, measurement: &Measurement) -> Result<(), String> {
        let Measurement { metric, value } = *measurement;
        let metrics = self.metrics;
        let found = usize::try_from(metric).ok().and_then(|metric| metrics.get(metric));
        let found =
            found.ok_or_else(|| format!("it changes metric {metric}, and its manifest has {}", metrics.len()))?;
        if !value.is_finite() || (found.kind == MetricKind::Counter && value < 0.0) {
            return Err(format!("it changes the metric \"{}\" by {value}", found.name));
        }
        Ok(())
    }
}

fn check_topic(what: &str, topic: &str) -> Result<(), String> {
    if is_topic(topic) {
        return Ok(());
    }
    let topic = text::bounded_to(MAX_SHOWN_BYTES, topic);
    Err(format!("it {what} \"{topic}\", and {}", TOPIC_RULE))
}

fn check_closing(Closing { code, reason }: &Closing) -> Result<(), String> {
    if matches!(code, 1000 | 3000..=4999) && reason.len() <= 123 {
        return Ok(());
    }
    let bytes = reason.len();
    Err(format!("it closes with {code} and {bytes} bytes of reason; 1000, 3000 to 4999, and 123 bytes are allowed"))
}

fn check_rejection(rejection: &Rejection) -> Result<(), String> {
    match rejection.status {
        status @ (0 | 9..256) => {
            Err(format!("it rejected with status {status}, but a rejection has status 1 to 8, or 256 and above"))
        }
        _ => Ok(()),
    }
}

fn check_attributes(attributes: &[(String, String)]) -> Result<(), String> {
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(format!("it gives {} attributes, and {MAX_ATTRIBUTES} are the most", attributes.len()));
    }
    let is_large = |(name, value): &&(String, String)| {
        name.len() > MAX_ATTRIBUTE_NAME_BYTES || value.len() > MAX_ATTRIBUTE_VALUE_BYTES
    };
    attributes.iter().find(is_large).map_or(Ok(()), |(name, _)| {
        let name = text::bounded_to(MAX_SHOWN_BYTES, name);
        Err(format!(
            "the attribute \"{name}\" is larger than {MAX_ATTRIBUTE_NAME_BYTES} bytes of name and \
             {MAX_ATTRIBUTE_VALUE_BYTES} bytes of value"
        ))
    })
}

fn check_denial(Denial { status, message: _ }: &Denial) -> Result<(), String> {
    match status {
        400..=599 => Ok(()),
        _ => Err(format!("it denied a session with the HTTP status {status}, but a denial has status 400 to 599")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::bindings::{Alarm, Answer, Holder, Keep, SessionId};

    const ALL: Takes =
        Takes { packets: true, batches: true, messages: true, sessions: true, presence: true, timers: true };

    fn rules(about: About) -> Rules<'static, impl Fn(u8) -> bool> {
        let serves = |route| route == 2;
        Rules { about, max_message_bytes: 100, max_actions: 2, takes: ALL, metrics: &[], serves }
    }

    /// Checks the actions as an answer to a packet, to a bus message, and to a timer.
    #[track_caller]
    fn check(actions: &[Action], expected: [Result<(), &str>; 3]) {
        for (about, expected) in [About::Packet, About::Message, About::Timer].into_iter().zip(expected) {
            let found = rules(about).check(&Ok(actions.to_vec()));
            match (&found, expected) {
                (Ok(()), Ok(())) => {}
                (Err(error), Err(part)) if error.contains(part) => {}
                _ => panic!("{found:?} where {expected:?} was expected"),
            }
        }
    }

    fn publish(topic: &str) -> Action {
        Action::Publish(Publication { topic: topic.to_owned(), body: Some(Vec::new()) })
    }

    fn put(key: &str) -> Action {
        Action::Put(Entry { key: key.to_owned(), value: None, ttl_ms: None })
    }

    #[test]
    fn a_decision_is_checked_as_a_whole() {
        check(&[publish("t"), publish("t")], [Ok(()); 3]);
        check(&[publish("t"), publish("")], [Err("a topic is 1 to 256 bytes"); 3]);
        check(&vec![publish("t"); 3], [Err("2 are the most (`actions`)"); 3]);
        let large = Action::Publish(Publication { topic: "t".to_owned(), body: Some(vec![0; 93]) });
        check(&[large], [Err("(`max_message_bytes`)"); 3]);
    }

    #[test]
    fn what_only_some_calls_have_is_refused_in_the_others() {
        let no_packet = "only a packet can be answered";
        for action in [Action::Echo, Action::Bind(1), Action::Reply(Answer { status: 0, body: Vec::new() })] {
            check(&[action], [Ok(()), Err(no_packet), Err(no_packet)]);
        }
        let payload = Action::Publish(Publication { topic: "t".to_owned(), body: None });
        check(&[payload], [Ok(()), Ok(()), Err("this call has no payload")]);
        let closing = Closing { code: 1000, reason: String::new() };
        let end = |whom| Action::End(Ending { whom, closing: closing.clone() });
        let no_sender = "this call has no sender";
        check(&[end(Target::Sender)], [Ok(()), Err(no_sender), Err(no_sender)]);
        check(&[end(Target::Group(1))], [Ok(()); 3]);
    }

    #[test]
    fn a_delivery_needs_a_route_that_is_served() {
        let delivery = |route| {
            let body = Some(Vec::new());
            Action::Deliver(Delivery { to: Target::User(1), except: None, route, body, keep: Keep::Always })
        };
        check(&[delivery(1)], [Err("route 0x01, which no plugin serves"); 3]);
        check(&[delivery(2)], [Ok(()); 3]);
    }

    #[test]
    fn a_key_has_1_to_256_bytes() {
        check(&[put("k"), put(&"k".repeat(256))], [Ok(()); 3]);
        check(&[put("")], [Err("a key has 1 to 256 bytes"); 3]);
        check(&[put(&"k".repeat(1 << 20))], [Err("1048576 bytes, and a key has 1 to 256 bytes"); 3]);
    }

    #[test]
    fn an_action_that_causes_calls_needs_the_export_for_them() {
        let rules = Rules { takes: Takes { packets: true, ..Takes::default() }, ..rules(About::Timer) };
        let holder = Holder::Session(SessionId { high: 0, low: 1 });
        let listen = Action::Listen(Interest { holder, topic: "t".to_owned() });
        let wake = Action::Wake(Alarm { key: 1, after_ms: Some(1) });
        for (action, interface) in [(listen, "hearing"), (wake, "timers")] {
            let error = rules.check(&Ok(vec![action])).unwrap_err();
            assert!(error.ends_with(&format!("does not export `gateway:policy/{interface}`")), "{error}");
        }
    }

    #[test]
    fn an_admission_and_a_denial_have_bounds() {
        let rules = rules(About::Session);
        let attributes = |bytes| vec![("name".to_owned(), "x".repeat(bytes))];
        let admission =
            |bytes| Admission { user: None, tag: 0, attributes: attributes(bytes), actions: vec![put("k")] };
        assert_eq!(rules.check_connect(&Ok(admission(1024))), Ok(()));
        let large = rules.check_connect(&Ok(admission(1025)));
        assert!(large.is_err_and(|error| error.contains("1024 bytes of value")));
        let denied = |status| rules.check_connect(&Err(Denial { status, message: "no".to_owned() }));
        assert_eq!(denied(403), Ok(()));
        assert!(denied(200).is_err_and(|error| error.contains("a denial has status 400 to 599")));
    }

    #[test]
    fn a_metric_has_to_be_in_the_manifest_and_a_counter_only_grows() {
        let metrics = [Metric { name: "kills".to_owned(), help: String::new(), kind: MetricKind::Counter }];
        let rules = Rules { metrics: &metrics, ..rules(About::Timer) };
        let measure = |metric, value| rules.check(&Ok(vec![Action::Measure(Measurement { metric, value })]));
        assert_eq!(measure(0, 1.5), Ok(()));
        assert!(measure(1, 1.0).is_err_and(|error| error == "it changes metric 1, and its manifest has 1"));
        assert!(measure(0, -1.0).is_err() && measure(0, f64::NAN).is_err());
    }

    #[test]
    fn the_text_of_an_error_is_bounded() {
        let error = rules(About::Timer).check(&Ok(vec![publish(&"\u{7}".repeat(1 << 20))]));
        assert!(error.is_err_and(|error| error.len() < 300));
    }
}
