//! Test vectors for plugins: a table, kept as JSON, of what goes in and what has to come out. The same table is run against a
//! component (`gateway plugin test FILE VECTORS`) and natively against a Rust policy (`gateway_plugin_sdk::testing::vectors`).
//!
//! ```json
//! { "suites": [
//!   { "settings": { "config": { "most": 3 }, "games": ["mmo"], "routes": [16] },
//!     "topics": ["answers"],
//!     "cases": [
//!       { "name": "a packet is published",
//!         "packet": { "seq": 1, "route": 16, "flags": 0, "session": "01234567-89ab-cdef-0123-456789abcdef", "user": 7, "payload": "hi" },
//!         "expect": { "actions": [ { "publish": { "topic": "requests" } }, "echo", { "bind": 7 },
//!                                  { "reply": { "status": 0, "body": "ok" } },
//!                                  { "deliver": { "to": { "user": 2 }, "route": 16, "body": { "hex": "ff00" } } },
//!                                  { "close": { "code": 1000, "reason": "bye" } } ] } },
//!       { "name": "a message is refused", "message": { "topic": "answers", "payload": "?" },
//!         "expect": { "reject": { "status": 2, "message": "no number" } } },
//!       { "name": "a crash is a crash", "packet": { "payload": "crash" }, "expect": "trap" } ] },
//!   { "settings": { "config": { "most": -1 } }, "refused": "config.most" } ] }
//! ```
//!
//! Payloads and bodies are text, or bytes as `{"hex": "…"}`. Of a packet everything may be left out: seq is 1, route the first of the
//! settings' `routes`, flags 0, the session is bound to nobody. `body` left out means none. `refused` is a part of the text that
//! `configure` refuses with. The cases of a suite are sent to one instance, in order; after a trap comes a fresh one.

mod bytes;
mod conversions;
mod run;

pub use bytes::Bytes;
pub use run::{Failure, Outcome, Subject, run};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// A file of vectors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Each with settings of its own.
    pub suites: Vec<Suite>,
}

/// Cases that share their settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// What `configure` gets.
    pub settings: Value,
    /// What it answers with, where that is checked.
    pub topics: Option<Vec<String>>,
    /// A part of the text that it refuses the settings with.
    pub refused: Option<String>,
    /// What is then sent.
    #[serde(default)]
    pub cases: Vec<Case>,
}

/// One call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// What is sent: either this
    pub packet: Option<Packet>,
    /// or that.
    pub message: Option<Message>,
    /// What has to come of it.
    pub expect: Expect,
}

/// A packet of a session.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packet {
    /// The client's counter.
    #[serde(default = "one")]
    pub seq: u32,
    /// The route; without one, the first of the settings.
    pub route: Option<u8>,
    /// The client's flags.
    #[serde(default)]
    pub flags: u8,
    /// The session's id.
    #[serde(default = "session")]
    pub session: Uuid,
    /// The user that it is bound to.
    pub user: Option<i32>,
    /// What follows the header.
    #[serde(default)]
    pub payload: Bytes,
}

fn one() -> u32 {
    1
}

fn session() -> Uuid {
    Uuid::from_u64_pair(1, 2)
}

/// A message of the bus.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Where it came from.
    pub topic: String,
    /// What it is.
    #[serde(default)]
    pub payload: Bytes,
}

/// What has to come of a call.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// These, in this order.
    Actions(Vec<Action>),
    /// This.
    Reject(Rejection),
    /// No answer.
    Trap,
}

/// As in the plugin interface.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Action {
    /// Publish on the bus.
    Publish {
        /// Where.
        topic: String,
        /// What, if not the call's payload.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<Bytes>,
    },
    /// Bind the session to a user.
    Bind(i32),
    /// Answer the packet.
    Reply {
        /// 0, or why not.
        #[serde(default)]
        status: u16,
        /// The payload.
        #[serde(default)]
        body: Bytes,
    },
    /// Answer the packet with its own payload.
    Echo,
    /// Push.
    Deliver {
        /// Who receives it.
        to: Target,
        /// The route byte.
        route: u8,
        /// What, if not the call's payload.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<Bytes>,
    },
    /// Close the session.
    Close {
        /// The close code.
        code: u16,
        /// What the client is told.
        #[serde(default)]
        reason: String,
    },
}

/// Who receives a push.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// One session.
    Session(Uuid),
    /// Every session of a user.
    User(i32),
}

impl Target {
    /// The session with this id.
    #[must_use]
    pub fn session(high: u64, low: u64) -> Self {
        Self::Session(Uuid::from_u64_pair(high, low))
    }
}

/// Why a call is not served.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rejection {
    /// Never 0.
    pub status: u16,
    /// A short text.
    pub message: String,
}
