//! The rules for what calls return, as the gateway checks them.

use crate::{
    Action, Admission, Closing, Delivery, Denial, Ending, Entry, Exported, Interest, MetricKind, Publication,
    Rejection, SessionId, Target,
};

/// The maximum number of attributes of one session from one plugin.
const MAX_ATTRIBUTES: usize = 32;

/// The maximum length of an attribute's name, in bytes.
const MAX_ATTRIBUTE_NAME_BYTES: usize = 64;

/// The maximum length of an attribute's value, in bytes.
const MAX_ATTRIBUTE_VALUE_BYTES: usize = 1024;

/// What a call is about.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    /// The name of the trait's function.
    pub(super) name: &'static str,
    /// The session that [`Target::Sender`] means.
    pub(super) sender: Option<SessionId>,
    /// The payload that an action without a body sends.
    pub(super) payload: Option<&'a [u8]>,
}

impl Call<'_> {
    /// Checks the actions that the call returned.
    ///
    /// # Panics
    /// Panics if the gateway would refuse an action.
    #[track_caller]
    pub(super) fn check<P: Exported>(&self, actions: &[Action]) {
        for action in actions {
            if let Err(why) = self.checked::<P>(action) {
                panic!("the gateway refuses what {} returned, because {why}: {action:?}", self.name);
            }
        }
    }

    fn checked<P: Exported>(&self, action: &Action) -> Result<(), String> {
        match action {
            Action::Publish(Publication { topic, body }) => {
                check_topic(topic)?;
                self.check_body(body.is_some())
            }
            Action::Reply(answer) => {
                ensure(!(9..256).contains(&answer.status), "the statuses 9 to 255 are reserved")?;
                self.check_packet()
            }
            Action::Echo | Action::Bind(_) => self.check_packet(),
            Action::Deliver(Delivery { to, body, .. }) => {
                self.check_target(to)?;
                self.check_body(body.is_some())
            }
            Action::Listen(Interest { topic, .. }) | Action::Unlisten(Interest { topic, .. }) => {
                ensure(P::CALLS.on_message.is_some(), "only a plugin that exports `Hearing` can listen")?;
                check_topic(topic)
            }
            Action::End(Ending { whom, closing }) => {
                self.check_target(whom)?;
                check_closing(closing)
            }
            Action::Put(Entry { key, .. }) => ensure((1..=256).contains(&key.len()), "a key has 1 to 256 bytes"),
            Action::Wake(_) => ensure(P::CALLS.on_wake.is_some(), "only a plugin that exports `Timers` has timers"),
            Action::Measure(it) => {
                let metric = usize::try_from(it.metric).ok().and_then(|position| P::METRICS.get(position));
                let metric = metric.ok_or("there is no metric with this position")?;
                ensure(it.value.is_finite(), "a metric is a finite number")?;
                ensure(metric.kind != MetricKind::Counter || it.value >= 0.0, "a counter only grows")
            }
            Action::Join(_) | Action::Leave(_) | Action::SetTag(_) => Ok(()),
        }
    }

    fn check_packet(&self) -> Result<(), String> {
        ensure(self.name == "on_packet", "only a packet can be answered with this action")
    }

    fn check_target(&self, target: &Target) -> Result<(), String> {
        ensure(self.sender.is_some() || *target != Target::Sender, "this call has no sender")
    }

    fn check_body(&self, has_body: bool) -> Result<(), String> {
        ensure(has_body || self.payload.is_some(), "this call has no payload that an action without a body could send")
    }
}

/// Checks the rejection that the call with this name returned.
///
/// # Panics
/// Panics if the gateway would refuse it.
#[track_caller]
pub(super) fn check_rejection(name: &str, rejection: &Rejection) {
    let is_allowed = matches!(rejection.status, 1..=8 | 256..);
    assert!(
        is_allowed,
        "the gateway refuses what {name} returned, because a rejection has status 1 to 8, or 256 and above: {rejection:?}"
    );
}

/// Checks what `on_connect` returned.
///
/// # Panics
/// Panics if the gateway would refuse it.
#[track_caller]
pub(super) fn check_admission(answer: &Result<Admission, Denial>) {
    let why = match answer {
        Err(denial) if !matches!(denial.status, 400..=599) => "a denial has status 400 to 599",
        Ok(Admission { attributes, .. }) if attributes.len() > MAX_ATTRIBUTES => "a session has at most 32 attributes",
        Ok(Admission { attributes, .. })
            if attributes.iter().any(|(name, value)| {
                name.len() > MAX_ATTRIBUTE_NAME_BYTES || value.len() > MAX_ATTRIBUTE_VALUE_BYTES
            }) =>
        {
            "an attribute has at most 64 bytes of name and 1024 bytes of value"
        }
        _ => return,
    };
    panic!("the gateway refuses what on_connect returned, because {why}: {answer:?}");
}

fn check_topic(topic: &str) -> Result<(), String> {
    let is_topic = (1..=256).contains(&topic.len()) && !topic.chars().any(char::is_control);
    ensure(is_topic, "a topic has 1 to 256 bytes and no control characters")?;
    ensure(!topic.starts_with("gateway:host"), "topics that begin with gateway:host belong to the gateway")
}

fn check_closing(Closing { code, reason }: &Closing) -> Result<(), String> {
    ensure(matches!(code, 1000 | 3000..=4999), "a close code is 1000, or 3000 to 4999")?;
    ensure(reason.len() <= 123, "a close reason has at most 123 bytes")
}

fn ensure(rule: bool, why: &str) -> Result<(), String> {
    if rule { Ok(()) } else { Err(why.to_owned()) }
}

#[track_caller]
pub(super) fn exported<C>(call: Option<C>, name: &str) -> C {
    call.unwrap_or_else(|| panic!("add `{name}` to the plugin's `export!`"))
}
