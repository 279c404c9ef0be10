//! Test vectors for plugins: a JSON table of calls and their expected outcomes.
//!
//! `gateway plugin test FILE VECTORS` runs a table against a component. `gateway_plugin_sdk::testing::vectors` runs the
//! same table natively against a Rust plugin.
//!
//! ```json
//! { "suites": [
//!   { "settings": { "config": { "max_players": 3 }, "games": ["mmo"], "routes": [16] },
//!     "topics": ["answers"],
//!     "cases": [
//!       { "name": "a packet is published",
//!         "packet": { "seq": 1, "route": 16, "flags": 0, "session": "01234567-89ab-cdef-0123-456789abcdef",
//!                     "user": 7, "tag": 3, "payload": "hi" },
//!         "now": 1700000000000, "state": { "room/3": { "hex": "ff00" } }, "attributes": { "name": "anna" },
//!         "expect": { "actions": [ { "publish": { "topic": "requests" } }, { "bind": 7 } ] } },
//!       { "name": "a message is refused", "message": { "topic": "answers", "payload": "?" },
//!         "expect": { "reject": { "status": 2, "message": "no number" } } },
//!       { "name": "a session begins", "connect": { "query": "name=anna" },
//!         "expect": { "admit": { "user": 7, "tag": 3, "attributes": { "name": "anna" },
//!                                "actions": [ { "join": { "group": 3 } } ] } } },
//!       { "name": "a session is denied", "connect": { "query": "" },
//!         "expect": { "deny": { "status": 400, "message": "add ?name=NAME" } } },
//!       { "name": "a session ends", "disconnect": { "user": 7, "tag": 3 }, "expect": { "actions": [] } },
//!       { "name": "a client is away", "away": { "user": 7, "tag": 3 }, "expect": { "actions": [] } },
//!       { "name": "a client is back", "back": { "handed_over": true }, "expect": { "actions": [] } },
//!       { "name": "a timer is due", "wake": { "key": 3 }, "expect": { "actions": [] } },
//!       { "name": "a crash is a trap", "packet": { "payload": "crash" }, "expect": "trap" } ] },
//!   { "settings": { "config": { "max_players": -1 } }, "refused": "config.max_players" } ] }
//! ```
//!
//! A suite configures an instance with its `settings`, which counts as one check. If `topics` is present, the plugin
//! must subscribe to exactly these topics. If `refused` is present, the plugin must refuse the settings with an error
//! that contains this text.
//!
//! The cases of a suite run on one instance, in order. After a trap, the next case runs on a fresh instance. No actions
//! are carried out: each case states itself what the plugin reads during its call. The default is no state, no
//! attributes, and the time 1700000000000. The `attributes` are those of the session that the call is about.
//!
//! # Calls
//!
//! A case has one of `packet`, `message`, `connect`, `disconnect`, `away`, `back` and `wake`. A payload, a body or a value
//! is a string, or bytes as `{"hex": "…"}`. Every field has a default, except the `topic` of a message and the `key` of a timer:
//!
//! | field | of | default |
//! |---|---|---|
//! | `session` | all but `message` and `wake` | `00000000-0000-0001-0000-000000000002` |
//! | `user` | all but `message` and `wake` | none: the session is not bound to a user |
//! | `tag` | `packet`, `disconnect`, `away`, `back` | 0 |
//! | `payload` | `packet`, `message` | empty |
//! | `seq` | `packet` | 1 |
//! | `route` | `packet` | the first of the settings' `routes`, or 0 if there is none |
//! | `flags` | `packet` | 0 |
//! | `remote` | `connect` | `127.0.0.1:50000` |
//! | `query` | `connect` | empty |
//! | `headers` | `connect` | none; otherwise a list of pairs `["name", "value"]` |
//! | `claims` | `connect` | none; otherwise the text of a JSON object |
//! | `handed_over` | `back` | `false` |
//! | `cause` | `disconnect` | `closed` |
//!
//! # Actions
//!
//! ```json
//! [ { "publish": { "topic": "requests", "body": "hello" } },
//!   { "reply": { "status": 0, "body": "ok" } },
//!   "echo",
//!   { "bind": 7 },
//!   { "deliver": { "to": { "user": 2 }, "route": 16, "body": { "hex": "ff00" } } },
//!   { "deliver": { "to": { "group": 3 }, "except": "01234567-89ab-cdef-0123-456789abcdef", "route": 16,
//!                  "keep": { "latest": 1 } } },
//!   { "join": { "session": "01234567-89ab-cdef-0123-456789abcdef", "group": 3 } },
//!   { "leave": { "group": 3 } },
//!   { "listen": { "holder": { "group": 3 }, "topic": "room:3" } },
//!   { "unlisten": { "holder": { "session": "01234567-89ab-cdef-0123-456789abcdef" }, "topic": "room:3" } },
//!   { "set-tag": { "tag": 3 } },
//!   { "end": { "whom": { "user": 2 }, "code": 4000, "reason": "replaced" } },
//!   { "put": { "key": "room/3", "value": "open", "ttl_ms": 60000 } },
//!   { "put": { "key": "room/3" } },
//!   { "wake": { "key": 3, "after_ms": 50 } },
//!   { "wake": { "key": 3 } },
//!   { "measure": { "metric": 0, "value": 1 } } ]
//! ```
//!
//! A target is `"sender"`, `{"session": "…"}`, `{"user": 2}` or `{"group": 3}`. The default of `whom` is the sender, and
//! `close` is another name of `end`. The default of `session` in `join`, `leave` and `set-tag` is that of a packet. A
//! `publish` or `deliver` without a `body` expects an action without a body, which sends the payload of the call. `keep`
//! is `"always"`, which is the default, `"may-drop"`, or `{"latest": 1}`. A `put` without a `value` removes the entry,
//! and a `wake` without `after_ms` cancels the timer.

mod action;
mod bytes;
mod call;
mod conversions;
mod outcome;
mod run;

pub use action::{Action, Holder, Keep, Target};
pub use bytes::Bytes;
pub use call::{Away, Back, Call, Connect, Disconnect, Given, Message, Packet, Wake};
pub use outcome::{Admission, Outcome, Rejection};
pub use run::{Failed, Failure, Subject, run};
#[doc(hidden)]
pub use uuid::Uuid;

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

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
#[serde(try_from = "Row")]
pub struct Case {
    /// The name of the case, for the report of failures.
    pub name: String,
    /// The call.
    pub call: Call,
    /// What the plugin reads during the call.
    pub given: Given,
    /// The outcome that the call must have.
    pub expect: Outcome,
}

/// A case as it is written in the table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    packet: Option<Packet>,
    message: Option<Message>,
    connect: Option<Connect>,
    disconnect: Option<Disconnect>,
    away: Option<Away>,
    back: Option<Back>,
    wake: Option<Wake>,
    #[serde(default = "call::now")]
    now: u64,
    #[serde(default)]
    state: BTreeMap<String, Bytes>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    expect: Outcome,
}

impl TryFrom<Row> for Case {
    type Error = String;

    fn try_from(row: Row) -> Result<Self, String> {
        let Row { name, packet, message, connect, disconnect, away, back, wake, now, state, attributes, expect } = row;
        let calls = [
            packet.map(Call::Packet),
            message.map(Call::Message),
            connect.map(Call::Connect),
            disconnect.map(Call::Disconnect),
            away.map(Call::Away),
            back.map(Call::Back),
            wake.map(Call::Wake),
        ];
        let mut calls = calls.into_iter().flatten();
        let (Some(call), None) = (calls.next(), calls.next()) else {
            let calls = "`packet`, `message`, `connect`, `disconnect`, `away`, `back` and `wake`";
            return Err(format!("the case {name:?} has to have exactly one of {calls}"));
        };
        Ok(Self { name, call, given: Given { now, state, attributes }, expect })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The examples in the documentation of this crate.
    fn examples() -> Vec<String> {
        let text = include_str!("lib.rs");
        let documentation: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("//!")).collect();
        let documentation = documentation.join("\n");
        documentation.split("```json").skip(1).filter_map(|it| it.split("```").next()).map(str::to_owned).collect()
    }

    #[test]
    fn the_examples_in_the_documentation_can_be_read() {
        let examples = examples();
        let table: Table = serde_json::from_str(&examples[0]).unwrap();
        assert_eq!(table.suites[0].cases.len(), 9);
        let actions: Vec<Action> = serde_json::from_str(&examples[1]).unwrap();
        let written = serde_json::to_string(&actions).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Action>>(&written).unwrap(), actions);
        let kinds: std::collections::HashSet<_> = actions.iter().map(std::mem::discriminant).collect();
        assert_eq!(kinds.len(), 14, "the interface has 14 actions");
    }

    #[track_caller]
    fn check(written: Value, action: Action) {
        assert_eq!(serde_json::from_value::<Action>(written).unwrap(), action);
    }

    #[test]
    fn what_an_action_leaves_out_has_a_default() {
        let session = Uuid::from_u64_pair(1, 2);
        check(json!({"join": {"group": 3}}), Action::Join { session, group: 3 });
        check(json!({"set-tag": {"tag": 3}}), Action::SetTag { session, tag: 3 });
        check(json!({"reply": {}}), Action::Reply { status: 0, body: Bytes::default() });
        check(json!({"put": {"key": "k"}}), Action::Put { key: "k".to_owned(), value: None, ttl_ms: None });
        check(json!({"wake": {"key": 3}}), Action::Wake { key: 3, after_ms: None });
        let end = Action::End { whom: Target::Sender, code: 1000, reason: String::new() };
        check(json!({"end": {"code": 1000}}), end.clone());
        check(json!({"close": {"code": 1000}}), end);
        let (to, except, body, keep) = (Target::Group(3), None, None, Keep::Always);
        check(
            json!({"deliver": {"to": {"group": 3}, "route": 16}}),
            Action::Deliver { to, except, route: 16, body, keep },
        );
        assert!(serde_json::from_value::<Action>(json!({"join": {"group": 3, "topic": "t"}})).is_err());
    }

    #[test]
    fn what_may_happen_to_a_push_is_written_as_in_the_interface() {
        let written = |keep| serde_json::to_value(keep).unwrap();
        assert_eq!(written(Keep::Always), json!("always"));
        assert_eq!(written(Keep::MayDrop), json!("may-drop"));
        assert_eq!(written(Keep::Latest(1)), json!({"latest": 1}));
    }

    #[test]
    fn a_case_has_exactly_one_call() {
        for calls in [json!({}), json!({"packet": {}, "wake": {"key": 1}})] {
            let mut case = json!({"name": "a", "expect": "trap"});
            case.as_object_mut().unwrap().extend(calls.as_object().unwrap().clone());
            let error = serde_json::from_value::<Case>(case).unwrap_err().to_string();
            assert!(error.starts_with("the case \"a\" has to have exactly one of"), "{error}");
        }
    }
}
