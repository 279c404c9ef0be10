//! Test vectors for plugins: a JSON table of calls and their expected outcomes.
//!
//! `gateway plugin test FILE VECTORS` runs a table against a component. `gateway_plugin_sdk::testing::vectors` runs the
//! same table natively against a Rust policy.
//!
//! ```json
//! { "suites": [
//!   { "settings": { "config": { "max_players": 3 }, "games": ["mmo"], "routes": [16] },
//!     "topics": ["answers"],
//!     "cases": [
//!       { "name": "a packet is published",
//!         "packet": { "seq": 1, "route": 16, "flags": 0, "session": "01234567-89ab-cdef-0123-456789abcdef",
//!                     "user": 7, "payload": "hi" },
//!         "expect": { "actions": [ { "publish": { "topic": "requests" } }, "echo", { "bind": 7 },
//!                                  { "reply": { "status": 0, "body": "ok" } },
//!                                  { "deliver": { "to": { "user": 2 }, "route": 16, "body": { "hex": "ff00" } } },
//!                                  { "close": { "code": 1000, "reason": "bye" } } ] } },
//!       { "name": "a message is refused", "message": { "topic": "answers", "payload": "?" },
//!         "expect": { "reject": { "status": 2, "message": "no number" } } },
//!       { "name": "a crash is a trap", "packet": { "payload": "crash" }, "expect": "trap" } ] },
//!   { "settings": { "config": { "max_players": -1 } }, "refused": "config.max_players" } ] }
//! ```
//!
//! A suite configures an instance with its `settings`, which counts as one check. If `topics` is present, the plugin
//! must subscribe to exactly these topics. If `refused` is present, the plugin must refuse the settings with an error
//! that contains this text. The cases of a suite run on one instance, in order. After a trap, the next case runs on a
//! fresh instance.
//!
//! A payload or a body is a string, or bytes as `{"hex": "…"}`. Every field of a packet has a default:
//!
//! | field | default |
//! |---|---|
//! | `seq` | 1 |
//! | `route` | the first of the settings' `routes`, or 0 if there is none |
//! | `flags` | 0 |
//! | `session` | `00000000-0000-0001-0000-000000000002` |
//! | `user` | none: the session is not bound to a user |
//! | `payload` | empty |
//!
//! A `publish` or `deliver` without a `body` expects an action without a body, which sends the payload of the call.

mod bytes;
mod conversions;
mod run;

pub use bytes::Bytes;
pub use run::{Failure, Outcome, Subject, run};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// A table of test vectors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The suites. Each suite has settings of its own and runs on an instance of its own.
    pub suites: Vec<Suite>,
}

/// Cases that run with the same settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// The JSON that `configure` receives.
    pub settings: Value,
    /// The topics that `configure` must return, in this order. If this is `None`, the topics are not checked.
    pub topics: Option<Vec<String>>,
    /// A part of the error text with which `configure` must refuse the settings.
    pub refused: Option<String>,
    /// The calls after `configure`, in order.
    #[serde(default)]
    pub cases: Vec<Case>,
}

/// One call and its expected outcome.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The name of the case, for the report of failures.
    pub name: String,
    /// The packet to send. A case has either a packet or a message.
    pub packet: Option<Packet>,
    /// The bus message to send. A case has either a packet or a message.
    pub message: Option<Message>,
    /// The outcome that the call must have.
    pub expect: Expect,
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
    pub user: Option<i32>,
    /// The payload, which follows the packet's header.
    #[serde(default)]
    pub payload: Bytes,
}

fn one() -> u32 {
    1
}

fn session() -> Uuid {
    Uuid::from_u64_pair(1, 2)
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

/// The outcome that a call must have.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// The plugin returns exactly these actions, in this order.
    Actions(Vec<Action>),
    /// The plugin returns exactly this rejection.
    Reject(Rejection),
    /// The call traps, or panics in a native run.
    Trap,
}

/// An action of a plugin, with the variants of the plugin interface (`wit/policy.wit`).
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
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
    /// Binds the session to a user.
    Bind(i32),
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
    /// Pushes a message to a session or to the sessions of a user.
    Deliver {
        /// The receiver of the push.
        to: Target,
        /// The route byte of the push.
        route: u8,
        /// The payload of the push. `None` stands for the payload of the call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<Bytes>,
    },
    /// Closes the session that sent the packet.
    Close {
        /// The WebSocket close code.
        code: u16,
        /// The reason that the client receives with the close code.
        #[serde(default)]
        reason: String,
    },
}

/// The receiver of a push.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// The session with this id.
    Session(Uuid),
    /// Every session of this user.
    User(i32),
}

impl Target {
    /// Returns the target for a session id, given as its upper and lower 64 bits.
    #[must_use]
    pub fn session(high: u64, low: u64) -> Self {
        Self::Session(Uuid::from_u64_pair(high, low))
    }
}

/// Why a plugin refuses a call.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rejection {
    /// The status that the client receives, never 0.
    pub status: u16,
    /// A short text for the client's author.
    pub message: String,
}
