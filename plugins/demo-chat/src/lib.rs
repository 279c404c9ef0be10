//! A chat backend in a plugin, for a demo without a separate backend.
//!
//! The plugin subscribes to the chat requests of each game. For each request it publishes a response to the sender, and
//! a broadcast to the receiver if the request names one. The plugin serves no route. It is also an example of a backend
//! that is a plugin.

use chat_proto::chat::{ChatRequest, ChatResponse, MessageBroadcast};
use gateway_plugin_sdk::{Action, Hearing, Plugin, Rejection, Settings, export};
use prost::Message;
use serde::Deserialize;
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::{SystemTime, UNIX_EPOCH},
};

const REQUESTS: &str = "game:request:";
const BROADCAST: &str = "broadcast";

/// The number of random bits in a message id. The microseconds take the other 52 bits until the year 2112.
const SALT_BITS: u32 = 11;

/// The settings of the plugin.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The ids of the games that the plugin serves. If this is `None`, it serves all games of gateway.yaml.
    games: Option<Vec<String>>,
}

struct DemoChat {
    games: Vec<String>,
    ids: Ids,
}

impl Plugin for DemoChat {
    const NAME: &str = "demo-chat";
    type Config = Config;

    fn configure(settings: Settings<Config>) -> Result<Self, String> {
        let games = settings.config.games.unwrap_or_else(|| settings.games.clone());
        match games.iter().find(|game| !settings.games.contains(game)) {
            Some(unknown) => Err(format!("games: {unknown:?} is not under `games` in gateway.yaml")),
            None => Ok(Self { games, ids: Ids::new() }),
        }
    }

    fn topics(&self) -> Vec<String> {
        self.games.iter().map(|game| [REQUESTS, game].concat()).collect()
    }
}

impl Hearing for DemoChat {
    fn on_message(&mut self, _topic: &str, payload: &[u8], now: u64) -> Result<Vec<Action>, Rejection> {
        let request =
            ChatRequest::decode(payload).map_err(|error| Rejection::malformed(format!("ChatRequest: {error}")))?;
        let sender = request.base.as_ref().map_or(0, |base| base.user_id);
        let timestamp = i64::try_from(now).unwrap_or(i64::MAX);
        let message_id = self.ids.next();
        // So the deliveries belong to the trace of the request.
        let meta = request.meta;
        let response = ChatResponse {
            base: request.base,
            success: true,
            message_id,
            timestamp,
            target_user_id: sender,
            target_session_id: meta.as_ref().map(|meta| meta.session_id.clone()).unwrap_or_default(),
            meta: meta.clone(),
            ..Default::default()
        };
        let mut actions = vec![Action::publish_body(BROADCAST, response.encode_to_vec())];
        if request.receiver_id > 0 {
            let broadcast = MessageBroadcast {
                message_id,
                sender_id: sender,
                sender_name: format!("user {sender}"),
                channel_id: request.channel_id,
                content: request.content,
                timestamp,
                r#type: request.r#type,
                target_user_id: request.receiver_id,
                meta,
            };
            actions.push(Action::publish_body(BROADCAST, broadcast.encode_to_vec()));
        }
        Ok(actions)
    }
}

/// The source of the ids of messages. A reload would reset a counter, and the clock alone is not enough, because several
/// instances may be called at the same moment.
struct Ids {
    /// What the ids of this instance end with.
    salt: i64,
    /// The time in the last id, in microseconds since 1970.
    last: i64,
}

impl Ids {
    fn new() -> Self {
        let random = RandomState::new().build_hasher().finish() % (1 << SALT_BITS);
        Self { salt: i64::try_from(random).unwrap_or_default(), last: 0 }
    }

    /// Returns an id that is higher than the last one.
    fn next(&mut self) -> i64 {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last = i64::try_from(clock.as_micros()).unwrap_or_default().max(self.last + 1);
        self.last << SALT_BITS | self.salt
    }
}

export!(DemoChat: Hearing);

#[cfg(test)]
mod tests {
    use super::*;
    use chat_proto::common::MessageBase;
    use gateway_plugin_sdk::testing::Harness;
    use std::collections::BTreeSet;

    #[track_caller]
    fn published(action: &Action) -> &[u8] {
        match action {
            Action::Publish(publication) if publication.topic == BROADCAST => publication.body.as_deref().unwrap(),
            other => panic!("not a publish on {BROADCAST}: {other:?}"),
        }
    }

    #[test]
    fn a_request_is_answered_and_forwarded() {
        let mut demo = Harness::<DemoChat>::new(r#"{"games":["mmo","rpg"]}"#).unwrap();
        assert_eq!(demo.topics, ["game:request:mmo", "game:request:rpg"]);
        let base = MessageBase { game_id: "mmo".to_owned(), user_id: 1, timestamp: 5 };
        let request =
            ChatRequest { base: Some(base.clone()), receiver_id: 2, content: "hello".to_owned(), ..Default::default() };
        let actions = demo.message("game:request:mmo", &request.encode_to_vec()).unwrap();
        let response = ChatResponse::decode(published(&actions[0])).unwrap();
        assert_eq!((response.base, response.success, response.target_user_id), (Some(base), true, 1));
        assert_eq!(response.timestamp, i64::try_from(demo.now).unwrap());
        let broadcast = MessageBroadcast::decode(published(&actions[1])).unwrap();
        assert_eq!((broadcast.sender_id, broadcast.target_user_id, &*broadcast.content), (1, 2, "hello"));
        assert_eq!(broadcast.message_id, response.message_id);
    }

    #[test]
    fn the_ids_of_the_same_moment_differ() {
        let mut instances = [1, 2].map(|salt| Ids { salt, last: 0 });
        let ids: Vec<_> = (0..400).map(|i| instances[i % 2].next()).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 400);
        assert!(ids.iter().step_by(2).is_sorted() && ids.iter().all(|id| *id > 0));
    }

    #[test]
    fn it_can_be_left_out() {
        let demo = Harness::<DemoChat>::new(r#"{"games":["mmo"],"config":{"games":[]}}"#).unwrap();
        assert!(demo.topics.is_empty());
        assert!(Harness::<DemoChat>::new(r#"{"games":["mmo"],"config":{"games":["x"]}}"#).is_err());
    }
}
