//! Constructors for [`Action`] and [`Delivery`].

use crate::{
    Action, Alarm, Answer, Closing, Delivery, Ending, Entry, Holder, Interest, Keep, Measurement, Membership,
    Publication, SessionId, Tagging, Target,
};
use std::time::Duration;

/// Constructors for the common actions. For every other action, use the variants of the enum.
///
/// The gateway checks the actions when the call returns. If an action is invalid, the gateway carries out no action of
/// the call, and the client gets status 8.
///
/// ```
/// use gateway_plugin_sdk::{Action, Answer, Delivery, SessionId, Target};
/// use std::time::Duration;
///
/// let session = SessionId { high: 1, low: 2 };
/// let actions: Vec<Action> = vec![
///     Action::Bind(7),
///     Action::publish("requests"),
///     Action::reply("welcome"),
///     Action::join(session, 3),
///     Delivery::to(Target::Group(3), 0x20).body("hello from 7").except(session).into(),
///     Action::put("seen/7", "yes"),
///     Action::wake(3, Duration::from_millis(50)),
/// ];
/// // Statuses of 256 and above belong to the game.
/// let unknown = Action::Reply(Answer { status: 256, body: b"no such room".to_vec() });
/// assert_ne!(actions[2], unknown);
/// ```
impl Action {
    /// Publishes the payload of the current call on the bus, byte for byte. The topic has 1 to 256 bytes and no control
    /// characters.
    pub fn publish(topic: impl Into<String>) -> Self {
        Self::Publish(Publication { topic: topic.into(), body: None })
    }

    /// Publishes `body` on the bus. The topic has 1 to 256 bytes and no control characters.
    pub fn publish_body(topic: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self::Publish(Publication { topic: topic.into(), body: Some(body.into()) })
    }

    /// Answers the packet with status 0 and the payload `body`. Allowed only in
    /// [`Policy::on_packet`](crate::Policy::on_packet).
    pub fn reply(body: impl Into<Vec<u8>>) -> Self {
        Self::Reply(Answer { status: 0, body: body.into() })
    }

    /// Pushes the payload of the current call to `to`, byte for byte. The client receives the push on `route`, which
    /// must be a route that some plugin serves.
    #[must_use]
    pub fn deliver(to: Target, route: u8) -> Self {
        Delivery::to(to, route).into()
    }

    /// Pushes `body` to `to`. The client receives the push on `route`, which must be a route that some plugin serves.
    pub fn deliver_body(to: Target, route: u8, body: impl Into<Vec<u8>>) -> Self {
        Delivery::to(to, route).body(body).into()
    }

    /// Adds a session to a group, until it leaves or ends.
    #[must_use]
    pub fn join(session: SessionId, group: u64) -> Self {
        Self::Join(Membership { session, group })
    }

    /// Removes a session from a group.
    #[must_use]
    pub fn leave(session: SessionId, group: u64) -> Self {
        Self::Leave(Membership { session, group })
    }

    /// Hears a bus topic until the session ends or no longer listens. [`Hearing`](crate::Hearing) receives its
    /// messages.
    pub fn listen_session(session: SessionId, topic: impl Into<String>) -> Self {
        Self::Listen(Interest { holder: Holder::Session(session), topic: topic.into() })
    }

    /// Hears a bus topic until the group has no members or no longer listens. [`Hearing`](crate::Hearing) receives its
    /// messages.
    pub fn listen_group(group: u64, topic: impl Into<String>) -> Self {
        Self::Listen(Interest { holder: Holder::Group(group), topic: topic.into() })
    }

    /// Ends what [`listen_session`](Self::listen_session) began.
    pub fn unlisten_session(session: SessionId, topic: impl Into<String>) -> Self {
        Self::Unlisten(Interest { holder: Holder::Session(session), topic: topic.into() })
    }

    /// Ends what [`listen_group`](Self::listen_group) began.
    pub fn unlisten_group(group: u64, topic: impl Into<String>) -> Self {
        Self::Unlisten(Interest { holder: Holder::Group(group), topic: topic.into() })
    }

    /// Gives a session a number, which comes with each packet of the session.
    #[must_use]
    pub fn tag(session: SessionId, tag: u64) -> Self {
        Self::SetTag(Tagging { session, tag })
    }

    /// Ends sessions, after their queued messages are sent.
    ///
    /// `code` is the WebSocket close code, 1000 or 3000 to 4999. `reason` has at most 123 bytes.
    pub fn end(whom: Target, code: u16, reason: impl Into<String>) -> Self {
        Self::End(Ending { whom, closing: Closing { code, reason: reason.into() } })
    }

    /// Writes an entry of the plugin's [`state`](crate::state). The key has 1 to 256 bytes.
    pub fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self::Put(Entry { key: key.into(), value: Some(value.into()), ttl_ms: None })
    }

    /// Writes an entry of the plugin's [`state`](crate::state), which the gateway removes after the time `ttl`. The
    /// time is rounded up to milliseconds.
    pub fn put_for(key: impl Into<String>, value: impl Into<Vec<u8>>, ttl: Duration) -> Self {
        Self::Put(Entry { key: key.into(), value: Some(value.into()), ttl_ms: Some(millis(ttl)) })
    }

    /// Removes an entry of the plugin's [`state`](crate::state).
    pub fn remove(key: impl Into<String>) -> Self {
        Self::Put(Entry { key: key.into(), value: None, ttl_ms: None })
    }

    /// Sets the timer `key`, in place of an earlier time. [`Timers::on_wake`](crate::Timers::on_wake) is called when it
    /// is due. The time is rounded up to milliseconds.
    #[must_use]
    pub fn wake(key: u64, after: Duration) -> Self {
        Self::Wake(Alarm { key, after_ms: Some(millis(after)) })
    }

    /// Cancels the timer `key`, if it is set.
    #[must_use]
    pub fn cancel(key: u64) -> Self {
        Self::Wake(Alarm { key, after_ms: None })
    }

    /// Changes a metric, given by its position in [`Plugin::METRICS`](crate::Plugin::METRICS): adds `value` to a
    /// counter, sets a gauge to it, or observes it in a histogram.
    #[must_use]
    pub fn measure(metric: u32, value: f64) -> Self {
        Self::Measure(Measurement { metric, value })
    }
}

/// Describes a push in steps. `into()` makes it an [`Action`].
///
/// ```
/// use gateway_plugin_sdk::{Action, Delivery, Keep, Target};
///
/// let position = Delivery::to(Target::Group(3), 0x02).body("x=1 y=2").latest(7);
/// assert_eq!(position.keep, Keep::Latest(7));
/// let action: Action = position.into();
/// ```
impl Delivery {
    /// Describes a push of the current call's payload to `to`. The client receives it on `route`, which must be a route
    /// that some plugin serves.
    #[must_use]
    pub fn to(to: Target, route: u8) -> Self {
        Self { to, except: None, route, body: None, keep: Keep::Always }
    }

    /// Pushes `body` instead of the current call's payload.
    #[must_use]
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: Some(body.into()), ..self }
    }

    /// Leaves out one session.
    #[must_use]
    pub fn except(self, session: SessionId) -> Self {
        Self { except: Some(session), ..self }
    }

    /// Lets the push be the first to be dropped when the queue of a slow client is full.
    #[must_use]
    pub fn may_drop(self) -> Self {
        Self { keep: Keep::MayDrop, ..self }
    }

    /// Lets the push take the place of a waiting push with the same key, for values of which only the newest matters.
    #[must_use]
    pub fn latest(self, key: u64) -> Self {
        Self { keep: Keep::Latest(key), ..self }
    }
}

impl From<Delivery> for Action {
    fn from(delivery: Delivery) -> Self {
        Self::Deliver(delivery)
    }
}

/// Returns a duration in milliseconds, rounded up, since a timer is never early.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_to_milliseconds() {
        let after = |after| match Action::wake(1, after) {
            Action::Wake(alarm) => alarm.after_ms,
            other => panic!("{other:?}"),
        };
        assert_eq!(after(Duration::from_millis(50)), Some(50));
        assert_eq!(after(Duration::from_nanos(50_000_001)), Some(51));
        assert_eq!(after(Duration::MAX), Some(u64::MAX));
    }
}
