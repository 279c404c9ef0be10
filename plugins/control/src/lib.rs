//! Ends sessions when a backend says so, for example because a user is banned or has logged in elsewhere.
//!
//! A backend publishes JSON on the topic `gateway:control`. It names a user or a session:
//!
//! ```json
//! {"close": {"user": 7, "code": 4003, "reason": "banned"}}
//! {"close": {"session": "01234567-89ab-cdef-0123-456789abcdef"}}
//! ```
//!
//! `code` is the WebSocket close code, 1000 or 3000 to 4999. The default is 4002. `reason` is a text of at most 123 bytes
//! for the client, and empty by default. Every gateway hears the topic, and ends the sessions that it has.

use gateway_plugin_sdk::{Action, Hearing, NoConfig, Plugin, Rejection, SessionId, Settings, Target, export};
use serde::Deserialize;

#[cfg(test)]
mod tests;

const TOPIC: &str = "gateway:control";

/// The close code if a message has none.
const DEFAULT_CODE: u16 = 4002;

/// The maximum length of a close reason, in bytes. A WebSocket close frame has no space for more.
const MAX_REASON_BYTES: usize = 123;

/// A message of a backend.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    close: Close,
}

/// Sessions to end.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Close {
    user: Option<i64>,
    session: Option<String>,
    #[serde(default = "default_code")]
    code: u16,
    #[serde(default)]
    reason: String,
}

fn default_code() -> u16 {
    DEFAULT_CODE
}

impl Close {
    fn target(&self) -> Result<Target, Rejection> {
        match (self.user, &self.session) {
            (Some(user), None) => Ok(Target::User(user)),
            (None, Some(session)) => session
                .parse::<SessionId>()
                .map(Target::Session)
                .map_err(|error| Rejection::malformed(format!("close.session: {error}"))),
            _ => Err(Rejection::malformed("close has to have either `user` or `session`")),
        }
    }
}

struct Control;

impl Plugin for Control {
    const NAME: &str = "control";
    type Config = NoConfig;

    fn configure(_: Settings<NoConfig>) -> Result<Self, String> {
        Ok(Self)
    }

    fn topics(&self) -> Vec<String> {
        vec![TOPIC.to_owned()]
    }
}

impl Hearing for Control {
    fn on_message(&mut self, _topic: &str, payload: &[u8], _now: u64) -> Result<Vec<Action>, Rejection> {
        let Message { close } = serde_json::from_slice(payload)
            .map_err(|error| Rejection::malformed(format!("no control message: {error}")))?;
        let target = close.target()?;
        if !matches!(close.code, 1000 | 3000..=4999) {
            return Err(Rejection::malformed("close.code: 1000, or 3000 to 4999 is allowed"));
        }
        if close.reason.len() > MAX_REASON_BYTES {
            return Err(Rejection::malformed("close.reason: at most 123 bytes are allowed"));
        }
        Ok(vec![Action::end(target, close.code, close.reason)])
    }
}

export!(Control: Hearing);
