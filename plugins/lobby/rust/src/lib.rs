//! The lobby: clients log in, ask for their user, write to each other, and publish on the bus.

use gateway_plugin_sdk::{
    Action, Admission, Answer, Connection, Delivery, Denial, Departure, Hearing, Packet, Plugin, Policy, Rejection,
    Sessions, Settings, Target, Timers, attributes, export, log, state,
};
use serde_json::{Map, Value};
use std::time::Duration;

const ROUTE: u8 = 0x10;
const STATUS: u16 = 256;

/// The group of all sessions.
const EVERYBODY: u64 = 1;

/// The entry that counts the messages since the last report.
const SAID: &str = "said";

/// The timer for the report of the count. It is set by the first message after a report.
const REPORT: u64 = 1;
const REPORT_AFTER: Duration = Duration::from_secs(10);

struct Lobby {
    topic: String,
    max_bytes: usize,
    route: u8,
}

impl Plugin for Lobby {
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
}

impl Policy for Lobby {
    fn on_packet(&mut self, packet: &Packet, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        let text = self.text(payload)?;
        let Some(user) = packet.user else { return login(text) };
        match text {
            "whoami" => Ok(vec![Action::reply(format!("user {user}, session {}", packet.session))]),
            "ping" => Ok(vec![Action::Echo]),
            "bye" => Ok(vec![Action::end(Target::Sender, 1000, "bye")]),
            "status" => Ok(vec![Action::Reply(Answer { status: STATUS, body: b"lobby".to_vec() })]),
            "crash" => panic!("a client asked for it"),
            _ if text.starts_with("login ") => Err(Rejection::rejected("already logged in")),
            _ => match text.strip_prefix("say ").filter(|text| !text.is_empty()) {
                Some(text) => Ok(self.say(packet, user, text)),
                None => Ok(self.send(user, text)),
            },
        }
    }
}

impl Hearing for Lobby {
    fn on_message(&mut self, _topic: &str, payload: &[u8], _now: u64) -> Result<Vec<Action>, Rejection> {
        let target = str::from_utf8(payload).ok().and_then(addressed).and_then(|(to, _)| {
            let session = || to.parse().ok().map(Target::Session);
            parse_user(to).map(Target::User).or_else(session)
        });
        let target = target.ok_or_else(|| Rejection::malformed("a message is `USER TEXT` or `SESSION TEXT`"))?;
        Ok(vec![Action::deliver(target, self.route)])
    }
}

impl Sessions for Lobby {
    fn on_connect(&mut self, connection: &Connection) -> Result<Admission, Denial> {
        let name = connection.query.split('&').find_map(|parameter| parameter.strip_prefix("name="));
        if name.is_some_and(|name| !is_name(name)) {
            return Err(Denial::new(400, "name: 1 to 16 characters of A-Z a-z 0-9 _ - are allowed"));
        }
        let attributes = name.map(|name| ("name".to_owned(), name.to_owned())).into_iter().collect();
        let actions = vec![Action::join(connection.session, EVERYBODY)];
        Ok(Admission { attributes, actions, ..Admission::default() })
    }

    fn on_disconnect(&mut self, departure: &Departure) -> Vec<Action> {
        let left = |user| Action::deliver_body(Target::Group(EVERYBODY), self.route, format!("{user} left"));
        departure.user.map(left).into_iter().collect()
    }
}

impl Timers for Lobby {
    fn on_wake(&mut self, _key: u64, _now: u64) -> Vec<Action> {
        let Some(said) = said() else { return Vec::new() };
        let report = Delivery::to(Target::Group(EVERYBODY), self.route).body(format!("messages: {said}"));
        vec![report.latest(REPORT).into(), Action::remove(SAID)]
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

    /// Delivers a text to everybody else, and counts it.
    fn say(&self, packet: &Packet, user: i64, text: &str) -> Vec<Action> {
        let name = attributes::get(packet.session, "name").unwrap_or_else(|| user.to_string());
        let said = said();
        let message = Delivery::to(Target::Group(EVERYBODY), self.route).body(format!("{name}: {text}"));
        let mut actions =
            vec![message.except(packet.session).into(), Action::put(SAID, (said.unwrap_or_default() + 1).to_string())];
        if said.is_none() {
            actions.push(Action::wake(REPORT, REPORT_AFTER));
        }
        actions.push(Action::reply("sent"));
        actions
    }

    /// Delivers a text of the form `to USER TEXT` to one user, and publishes any other text on the bus.
    fn send(&self, from: i64, text: &str) -> Vec<Action> {
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

/// Returns the number of messages since the last report, or `None` if there are none.
fn said() -> Option<u64> {
    str::from_utf8(&state::get(SAID)?).ok()?.parse().ok()
}

/// Parses a user's id. Returns `None` for a sign or a leading zero, which `parse` alone would accept.
fn parse_user(text: &str) -> Option<i64> {
    if text.starts_with(['+', '0']) {
        return None;
    }
    text.parse().ok().filter(|user| *user > 0)
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    (1..=16).contains(&text.len()) && text.bytes().all(allowed)
}

fn is_topic(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b":_-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

export!(Lobby: Policy, Hearing, Sessions, Timers);

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_plugin_sdk::testing::{Harness, Push, vectors};

    #[test]
    fn it_does_what_every_other_language_does() {
        let passed =
            vectors::<Lobby>(include_str!("../../vectors.json")).unwrap_or_else(|failures| panic!("{failures}"));
        assert!(passed > 0);
    }
    #[test]
    fn the_messages_of_ten_seconds_are_reported_once() {
        let mut lobby = Harness::<Lobby>::new("{}").unwrap();
        let (anna, berta) = (lobby.connect("name=anna").unwrap(), lobby.connect("").unwrap());
        for (session, user) in [(anna, 7), (berta, 8)] {
            lobby.bind(session, user);
        }
        lobby.packet_from(anna, ROUTE, b"say hi").unwrap();
        lobby.advance(Duration::from_secs(6));
        lobby.packet_from(berta, ROUTE, b"say hello").unwrap();
        lobby.advance(Duration::from_secs(4));
        let report = Push { keep: gateway_plugin_sdk::Keep::Latest(REPORT), ..Push::new(ROUTE, "messages: 2") };
        assert_eq!(lobby.delivered(anna), [Push::new(ROUTE, "8: hello"), report.clone()]);
        assert_eq!(lobby.delivered(berta), [Push::new(ROUTE, "anna: hi"), report]);
        assert_eq!((lobby.state(SAID), lobby.timer(REPORT)), (None, None));

        lobby.disconnect(anna);
        assert_eq!(lobby.members(EVERYBODY), [berta]);
        assert_eq!(lobby.delivered(berta), [Push::new(ROUTE, "7 left")]);
    }
}
