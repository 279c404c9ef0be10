//! The outcomes of calls.

use crate::Action;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The outcome of a call.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The plugin returns exactly these actions, in this order.
    Actions(Vec<Action>),
    /// The plugin rejects a packet or a message.
    Reject(Rejection),
    /// The plugin lets a session begin.
    Admit(Admission),
    /// The plugin does not let a session begin.
    Deny(Rejection),
    /// The call traps, or panics in a native run.
    Trap,
}

/// The reason for a rejection or a denial.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rejection {
    /// The status that the client receives. It is an HTTP status in a denial, and never 0 in a rejection.
    pub status: u16,
    /// A short text for the client's author.
    pub message: String,
}

/// A session that may begin.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admission {
    /// The user to bind the session to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<i64>,
    /// The session's tag.
    pub tag: u64,
    /// The texts that the plugin can read later. Their order does not matter.
    pub attributes: BTreeMap<String, String>,
    /// The actions for the gateway to carry out.
    pub actions: Vec<Action>,
}
