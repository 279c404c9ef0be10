//! The counted messages. Each message carries a unique id, by which every observer recognizes it.

use chat_proto::{
    chat::{ChatRequest, ChatResponse, MessageBroadcast},
    common::{MessageBase, MessageMeta},
};
use prost::Message;

/// The id of a message, unique in a run.
pub(crate) type Id = u64;

/// The game of the counting players.
pub(crate) const GAME: &str = "mmo";
/// The topic of the players' requests.
pub(crate) const REQUESTS: &str = "game:request:mmo";
/// The topic from which the gateway delivers.
pub(crate) const BROADCAST: &str = "broadcast";

/// Returns a chat request that the user sends on this session.
pub(crate) fn request(id: Id, user_id: i32, session_id: &str) -> Vec<u8> {
    let base = MessageBase { game_id: GAME.to_owned(), user_id, timestamp: 0 };
    let meta = MessageMeta { session_id: session_id.to_owned(), ..Default::default() };
    ChatRequest { base: Some(base), content: id.to_string(), meta: Some(meta), ..Default::default() }.encode_to_vec()
}

/// Returns the id and the session of a request, or `None` if the request is not a counted message.
pub(crate) fn read_request(body: &[u8]) -> Option<(Id, String)> {
    let request = ChatRequest::decode(body).ok()?;
    Some((request.content.parse().ok()?, request.meta?.session_id))
}

/// Returns a backend's response to a session.
pub(crate) fn response(id: Id, session_id: &str) -> Vec<u8> {
    let message_id = id.try_into().unwrap();
    ChatResponse { success: true, message_id, target_session_id: session_id.to_owned(), ..Default::default() }
        .encode_to_vec()
}

/// Returns a backend's message to a user.
pub(crate) fn broadcast(id: Id, user_id: i32) -> Vec<u8> {
    let message_id = id.try_into().unwrap();
    MessageBroadcast { message_id, target_user_id: user_id, ..Default::default() }.encode_to_vec()
}

/// Returns the id of a response or a broadcast. A broadcast has its id in field 1, which the responses of a run leave
/// empty.
pub(crate) fn read_delivery(body: &[u8]) -> Option<Id> {
    let broadcast = MessageBroadcast::decode(body).map(|message| message.message_id).unwrap_or_default();
    let id = if broadcast == 0 { ChatResponse::decode(body).ok()?.message_id } else { broadcast };
    id.try_into().ok().filter(|id| *id > 0)
}

#[test]
fn an_id_is_found_again_in_each_message() {
    assert_eq!(read_request(&request(5, 7, "s")), Some((5, "s".to_owned())));
    assert_eq!(read_delivery(&response(6, "s")), Some(6));
    assert_eq!(read_delivery(&broadcast(7, 1)), Some(7));
    assert_eq!(read_request(b"garbage"), None);
    assert_eq!(read_delivery(b"garbage"), None);
}
