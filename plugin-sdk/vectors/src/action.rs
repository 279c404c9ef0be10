//! The actions of a plugin.

use crate::{Bytes, call::session};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An action of a plugin, with the variants of the plugin interface (`wit/0.2/policy.wit`).
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Action {
    /// Publishes a message on the bus.
    Publish {
        /// The topic.
        topic: String,
        /// The message. `None` stands for the payload of the call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<Bytes>,
    },
    /// Answers the packet.
    Reply {
        /// The reply's status, 0 for success.
        #[serde(default)]
        status: u16,
        /// The payload of the reply.
        #[serde(default)]
        body: Bytes,
    },
    /// Answers the packet with status 0 and its own payload.
    Echo,
    /// Binds the session to a user.
    Bind(i64),
    /// Pushes a message to sessions.
    Deliver {
        /// The receivers of the push.
        to: Target,
        /// A session that does not get the push.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        except: Option<Uuid>,
        /// The route byte of the push.
        route: u8,
        /// The payload of the push. `None` stands for the payload of the call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<Bytes>,
        /// What may happen to the push while it waits for a slow client.
        #[serde(default, skip_serializing_if = "Keep::is_always")]
        keep: Keep,
    },
    /// Adds a session to a group.
    Join {
        /// The session's id.
        #[serde(default = "session")]
        session: Uuid,
        /// The group.
        group: u64,
    },
    /// Removes a session from a group.
    Leave {
        /// The session's id.
        #[serde(default = "session")]
        session: Uuid,
        /// The group.
        group: u64,
    },
    /// Hears a bus topic as long as the holder wants it.
    Listen {
        /// Who wants to hear the topic.
        holder: Holder,
        /// The topic.
        topic: String,
    },
    /// Ends what `listen` began.
    Unlisten {
        /// Who wanted to hear the topic.
        holder: Holder,
        /// The topic.
        topic: String,
    },
    /// Gives a session a number.
    #[serde(rename = "set-tag")]
    SetTag {
        /// The session's id.
        #[serde(default = "session")]
        session: Uuid,
        /// The number.
        tag: u64,
    },
    /// Ends sessions. The interface 0.1 has `close` instead, which ends the sender.
    #[serde(alias = "close")]
    End {
        /// The sessions.
        #[serde(default)]
        whom: Target,
        /// The WebSocket close code.
        code: u16,
        /// The reason that the clients receive with the close code.
        #[serde(default)]
        reason: String,
    },
    /// Writes or removes an entry of the plugin's state.
    Put {
        /// The key.
        key: String,
        /// The value, or `None` to remove the entry.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<Bytes>,
        /// The time after which the gateway removes the entry, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl_ms: Option<u64>,
    },
    /// Sets or cancels a timer.
    Wake {
        /// The number of the timer.
        key: u64,
        /// The time until the timer is due, in milliseconds, or `None` to cancel it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_ms: Option<u64>,
    },
    /// Changes a metric.
    Measure {
        /// The position of the metric in the manifest.
        metric: u32,
        /// The number that is added, set or observed.
        value: f64,
    },
}

/// Sessions of the gateway.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// The session that the call is about.
    #[default]
    Sender,
    /// The session with this id.
    Session(Uuid),
    /// Every session of this user.
    User(i64),
    /// Every member of this group.
    Group(u64),
}

/// What may happen to a push while it waits for a slow client.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// The push waits.
    #[default]
    Always,
    /// The push is the first to be dropped.
    MayDrop,
    /// The push takes the place of a waiting push with the same number.
    Latest(u64),
}

impl Keep {
    fn is_always(&self) -> bool {
        *self == Self::Always
    }
}

/// The one for whom a topic is heard.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Holder {
    /// The session with this id.
    Session(Uuid),
    /// This group.
    Group(u64),
}
