//! The calls of a table, and what a plugin reads during them.

use crate::Bytes;
use serde::Deserialize;
use std::collections::BTreeMap;
use uuid::Uuid;

/// A call of a plugin.
#[derive(Clone, Debug)]
pub enum Call {
    /// A packet arrives.
    Packet(Packet),
    /// A bus message arrives.
    Message(Message),
    /// A client asks for a session.
    Connect(Connect),
    /// A session has ended.
    Disconnect(Disconnect),
    /// The client of a session is away.
    Away(Away),
    /// The client of a session is back.
    Back(Back),
    /// A timer is due.
    Wake(Wake),
}

impl Call {
    /// Returns the session that the call is about. For a message and a timer this is the default session.
    #[must_use]
    pub fn session(&self) -> Uuid {
        match self {
            Self::Packet(it) => it.session,
            Self::Connect(it) => it.session,
            Self::Disconnect(it) => it.session,
            Self::Away(it) => it.session,
            Self::Back(it) => it.session,
            Self::Message(_) | Self::Wake(_) => session(),
        }
    }
}

/// A packet from a session.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packet {
    /// The client's own counter.
    #[serde(default = "one")]
    pub seq: u32,
    /// The route byte. If this is `None`, the packet has the first route of the settings.
    pub route: Option<u8>,
    /// The client's flags.
    #[serde(default)]
    pub flags: u8,
    /// The session's id.
    #[serde(default = "session")]
    pub session: Uuid,
    /// The user that the session is bound to.
    pub user: Option<i64>,
    /// The session's tag.
    #[serde(default)]
    pub tag: u64,
    /// The payload, which follows the packet's header.
    #[serde(default)]
    pub payload: Bytes,
}

/// A bus message.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// The topic that the message was published on.
    pub topic: String,
    /// The content of the message.
    #[serde(default)]
    pub payload: Bytes,
}

/// A client that asks for a session.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// The id that the session will have.
    #[serde(default = "session")]
    pub session: Uuid,
    /// The client's address and port.
    #[serde(default = "remote")]
    pub remote: String,
    /// The query of the request's path.
    #[serde(default)]
    pub query: String,
    /// The headers of the request, as pairs of a name in lower case and a value.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The user that the client's token names.
    pub user: Option<i64>,
    /// The claims of the client's token, as the text of a JSON object.
    pub claims: Option<String>,
}

/// A session that has ended.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disconnect {
    /// The session's id.
    #[serde(default = "session")]
    pub session: Uuid,
    /// The user that the session was bound to.
    pub user: Option<i64>,
    /// The session's tag.
    #[serde(default)]
    pub tag: u64,
    /// Why the session ended.
    #[serde(default = "cause")]
    pub cause: String,
}

/// A session whose client is away.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Away {
    /// The session's id.
    #[serde(default = "session")]
    pub session: Uuid,
    /// The user that the session is bound to.
    pub user: Option<i64>,
    /// The session's tag.
    #[serde(default)]
    pub tag: u64,
}

/// A session whose client is back.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Back {
    /// The session's id.
    #[serde(default = "session")]
    pub session: Uuid,
    /// The user that the session is bound to.
    pub user: Option<i64>,
    /// The session's tag.
    #[serde(default)]
    pub tag: u64,
    /// Whether the session was at another gateway until now.
    #[serde(default)]
    pub handed_over: bool,
}

/// A timer that is due.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wake {
    /// The number of the timer.
    pub key: u64,
}

/// What a plugin reads during a call.
#[derive(Clone, Debug)]
pub struct Given {
    /// The time of the call, in milliseconds since 1970-01-01T00:00:00Z.
    pub now: u64,
    /// The entries of the plugin's state.
    pub state: BTreeMap<String, Bytes>,
    /// The attributes of the session that the call is about.
    pub attributes: BTreeMap<String, String>,
}

fn one() -> u32 {
    1
}

pub(crate) fn session() -> Uuid {
    Uuid::from_u64_pair(1, 2)
}

fn remote() -> String {
    "127.0.0.1:50000".to_owned()
}

fn cause() -> String {
    "closed".to_owned()
}

pub(crate) fn now() -> u64 {
    1_700_000_000_000
}
