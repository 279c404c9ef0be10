//! The lobby: clients log in, ask for their user, write to each other, and publish on the bus.

use gateway_plugin_sdk::{Action, Answer, Packet, Policy, Rejection, Settings, Target, export, log};
use serde_json::{Map, Value};

const ROUTE: u8 = 0x10;
const STATUS: u16 = 256;

struct Lobby {
    topic: String,
    max_bytes: usize,
    route: u8,
}

impl Policy for Lobby {
    const NAME: &str = "lobby";
    const ROUTES: &[u8] = &[ROUTE];
    /// A map instead of a struct, so that the policy's own errors can list the known keys and the allowed values.
    type Config = Map<String, Value>;

    fn configure(settings: Settings<Self::Config>) -> Result<Self, String> {
        let config = settings.config;
        if let Some(key) = config.keys().find(|key| !["topic", "max_bytes"].contains(&key.as_str())) {
            return Err(format!("config.{key}: unknown key (known: topic, max_bytes)"));
        }
        let topic = match config.get("topic") {
            None => "lobby",
            Some(topic) => topic
                .as_str()
                .filter(|topic| is_topic(topic))
                .ok_or("config.topic: 1 to 64 characters of a-z 0-9 : _ - are allowed")?,
        };
        let max_bytes = match config.get("max_bytes") {
            None => 64,
            Some(bytes) => bytes
                .as_u64()
                .filter(|bytes| (1..=65536).contains(bytes))
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or("config.max_bytes: 1 to 65536 is allowed")?,
        };
        let route = settings.routes.first().copied().unwrap_or(ROUTE);
        log::debug("lobby configured");
        Ok(Self { topic: topic.to_owned(), max_bytes, route })
    }

    fn topics(&self) -> Vec<String> {
        vec![format!("{}:out", self.topic)]
    }

    fn on_packet(&mut self, packet: &Packet, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        let text = self.text(payload)?;
        let Some(user) = packet.user else { return login(text) };
        match text {
            "whoami" => Ok(vec![Action::reply(format!("user {user}, session {}", packet.session))]),
            "ping" => Ok(vec![Action::Echo]),
            "bye" => Ok(vec![Action::close(1000, "bye")]),
            "status" => Ok(vec![Action::Reply(Answer { status: STATUS, body: b"lobby".to_vec() })]),
            "crash" => panic!("a client asked for it"),
            _ if text.starts_with("login ") => Err(Rejection::rejected("already logged in")),
            _ => Ok(self.say(user, text)),
        }
    }

    fn on_message(&mut self, _topic: &str, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        let target = str::from_utf8(payload).ok().and_then(addressed).and_then(|(to, _)| {
            let session = || to.parse().ok().map(Target::Session);
            parse_user(to).map(Target::User).or_else(session)
        });
        let target = target.ok_or_else(|| Rejection::malformed("a message is `USER TEXT` or `SESSION TEXT`"))?;
        Ok(vec![Action::deliver(target, self.route)])
    }
}

impl Lobby {
    fn text<'a>(&self, payload: &'a [u8]) -> Result<&'a str, Rejection> {
        if payload.is_empty() {
            return Err(Rejection::malformed("the payload is empty"));
        }
        let text = str::from_utf8(payload).map_err(|_| Rejection::malformed("the payload is not UTF-8"))?;
        if text.len() > self.max_bytes {
            return Err(Rejection::rejected(format!("more than {} bytes", self.max_bytes)));
        }
        Ok(text)
    }

    /// Delivers a text of the form `to USER TEXT` to one user, and publishes any other text on the bus.
    fn say(&self, from: i32, text: &str) -> Vec<Action> {
        let to = text.strip_prefix("to ").and_then(addressed);
        match to.and_then(|(to, text)| Some((parse_user(to)?, text))) {
            Some((to, text)) => {
                let body = format!("from {from}: {text}");
                vec![Action::deliver_body(Target::User(to), self.route, body), Action::reply("sent")]
            }
            None => vec![Action::publish(&self.topic)],
        }
    }
}

fn login(text: &str) -> Result<Vec<Action>, Rejection> {
    let user = text.strip_prefix("login ").and_then(parse_user).ok_or_else(|| Rejection::forbidden("log in first"))?;
    Ok(vec![Action::Bind(user), Action::reply(format!("welcome {user}"))])
}

/// Splits `TO TEXT` at its first space. The text may begin with further spaces. Returns `None` if the text is empty.
fn addressed(text: &str) -> Option<(&str, &str)> {
    text.split_once(' ').filter(|(_, text)| !text.is_empty())
}

/// Parses a user's id. Returns `None` for a sign or a leading zero, which `parse` alone would accept.
fn parse_user(text: &str) -> Option<i32> {
    if text.starts_with(['+', '0']) {
        return None;
    }
    text.parse().ok().filter(|user| *user > 0)
}

fn is_topic(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b":_-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

export!(Lobby);

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_plugin_sdk::testing::vectors;

    #[test]
    fn it_does_what_every_other_language_does() {
        let passed =
            vectors::<Lobby>(include_str!("../../vectors.json")).unwrap_or_else(|failures| panic!("{failures}"));
        assert!(passed > 0);
    }
}
