//! The chat route. The policy publishes a client's request on the topic of the game that the request names. The first
//! request binds the session to a user. The policy delivers a backend's message to the session or the user that the
//! message names.
//!
//! A backend publishes on one of two topics. Every gateway hears `broadcast`. Only the gateways with a session of user 7
//! hear `broadcast:user:7`, because a session listens to its user's topic as soon as it is bound: from its beginning if
//! a token names the user, otherwise from its first accepted request on.
//!
//! The policy decodes only the fields that it decides on, and the trace that a message belongs to. The gateway forwards
//! each message unchanged, including fields of newer versions.

use gateway_plugin_sdk::{
    Action, Admission, Connection, Denial, Hearing, NoConfig, Packet, Plugin, Policy, Rejection, SessionId, Sessions,
    Settings, Target, export,
    protobuf::{Malformed, fields},
    tracing::{self, Context},
};

#[cfg(test)]
mod tests;

const ROUTE: u8 = 0x01;
const REQUESTS: &str = "game:request:";
const BROADCAST: &str = "broadcast";
const BROADCAST_USER: &str = "broadcast:user:";

/// The tag of a session that listens to the topic of its user.
const LISTENS: u64 = 1;

/// The fields of a `common.MessageBase` that the policy decides on.
#[derive(Default)]
struct Base<'a> {
    game_id: &'a str,
    user_id: i32,
}

impl<'a> Base<'a> {
    fn read(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        for field in fields(message) {
            let field = field?;
            match field.number {
                1 => self.game_id = field.string()?,
                2 => self.user_id = field.int32()?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads the field `base` of a `chat.ChatRequest`. Returns `None` if the request has no such field. Joins the
    /// trace of the request.
    fn of_request(message: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let mut base = None;
        for field in fields(message) {
            let field = field?;
            match field.number {
                1 => base.get_or_insert_with(Self::default).read(field.bytes()?)?,
                10 => join(field.bytes().unwrap_or_default()),
                _ => {}
            }
        }
        Ok(base)
    }
}

/// Joins the trace that a `common.MessageMeta` names, if it names one. Nothing else depends on this message, so an error
/// in it is no reason to refuse what it is a part of.
fn join(meta: &[u8]) {
    let (mut trace, mut span) = ("", "");
    for field in fields(meta).map_while(Result::ok) {
        match field.number {
            5 => trace = field.string().unwrap_or_default(),
            6 => span = field.string().unwrap_or_default(),
            _ => {}
        }
    }
    if let Some(context) = Context::from_hex(trace, span, false) {
        tracing::join(context);
    }
}

/// The target fields of a `chat.ChatResponse` or a `chat.MessageBroadcast`. Both messages use the same field numbers
/// for the target.
#[derive(Default)]
struct Targets<'a> {
    user_id: i32,
    session_id: &'a str,
}

impl<'a> Targets<'a> {
    /// Reads the fields, and joins the trace of the message.
    fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut targets = Self::default();
        for field in fields(message) {
            let field = field?;
            match field.number {
                10 => targets.user_id = field.int32()?,
                11 => targets.session_id = field.string()?,
                12 => join(field.bytes().unwrap_or_default()),
                _ => {}
            }
        }
        Ok(targets)
    }
}

struct Chat {
    games: Vec<String>,
    route: u8,
}

impl Plugin for Chat {
    const NAME: &str = "chat";
    const ROUTES: &[u8] = &[ROUTE];
    /// Other routes need no chat.
    const GATEKEEPER: bool = false;
    type Config = NoConfig;

    fn configure(settings: Settings<NoConfig>) -> Result<Self, String> {
        let route = settings.routes.first().copied().unwrap_or(ROUTE);
        Ok(Self { games: settings.games, route })
    }

    fn topics(&self) -> Vec<String> {
        vec![BROADCAST.to_owned()]
    }
}

impl Policy for Chat {
    fn on_packet(&mut self, packet: &Packet, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        let base = Base::of_request(payload)
            .map_err(|error| Rejection::malformed(format!("ChatRequest: {error}")))?
            .ok_or_else(|| Rejection::malformed("ChatRequest.base is missing"))?;
        if base.game_id.is_empty() {
            return Err(Rejection::malformed("ChatRequest.base.game_id is missing"));
        }
        if base.user_id <= 0 {
            return Err(Rejection::malformed("ChatRequest.base.user_id has to be positive"));
        }
        if !self.knows(base.game_id) {
            return Err(Rejection::rejected("ChatRequest.base.game_id is no game of this gateway"));
        }
        let user = i64::from(base.user_id);
        if packet.user.is_some_and(|bound| bound != user) {
            return Err(Rejection::forbidden("ChatRequest.base.user_id is not the user of this session"));
        }
        let publish = Action::publish([REQUESTS, base.game_id].concat());
        if packet.tag == LISTENS {
            return Ok(vec![publish]);
        }
        let (listen, listens) = (listen(packet.session, user), Action::tag(packet.session, LISTENS));
        // A session may be bound without this tag if it began before this plugin was loaded.
        Ok(match packet.user {
            None => vec![Action::Bind(user), listen, listens, publish],
            Some(_) => vec![listen, listens, publish],
        })
    }
}

impl Sessions for Chat {
    fn on_connect(&mut self, connection: &Connection) -> Result<Admission, Denial> {
        let Some(user) = connection.user else { return Ok(Admission::default()) };
        let actions = vec![listen(connection.session, user)];
        Ok(Admission { tag: LISTENS, actions, ..Admission::default() })
    }
}

/// Makes the session hear the messages for its user.
fn listen(session: SessionId, user: i64) -> Action {
    Action::listen_session(session, format!("{BROADCAST_USER}{user}"))
}

impl Hearing for Chat {
    fn on_message(&mut self, topic: &str, payload: &[u8], _now: u64) -> Result<Vec<Action>, Rejection> {
        let targets = Targets::read(payload)
            .map_err(|error| Rejection::malformed(format!("neither ChatResponse nor MessageBroadcast: {error}")))?;
        let user = match (user_of(topic), i64::from(targets.user_id)) {
            (Some(user), 0) => user,
            (Some(user), target) if user != target => {
                return Err(Rejection::rejected("target_user_id is not the user of the topic"));
            }
            (_, target) => target,
        };
        let target = match (targets.session_id, user) {
            ("", 0) => return Err(Rejection::malformed("neither target_user_id nor target_session_id is set")),
            ("", user) => Target::User(user),
            (session, _) => Target::Session(
                session.parse().map_err(|error| Rejection::malformed(format!("target_session_id: {error}")))?,
            ),
        };
        Ok(vec![Action::deliver(target, self.route)])
    }
}

/// Returns the user whose topic this is.
fn user_of(topic: &str) -> Option<i64> {
    topic.strip_prefix(BROADCAST_USER)?.parse().ok()
}

impl Chat {
    /// Returns whether the gateway serves the game.
    ///
    /// If no games are configured, every id is served that is safe as a part of a topic: at most 64 bytes of
    /// `A-Z a-z 0-9 _ . -`.
    fn knows(&self, game: &str) -> bool {
        if self.games.is_empty() {
            return game.len() <= 64 && game.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        }
        self.games.iter().any(|known| known == game)
    }
}

export!(Chat: Policy, Hearing, Sessions);
