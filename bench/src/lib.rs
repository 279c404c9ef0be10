//! The code that the programs of the benchmark share.

use chat_proto::chat::ChatRequest;
use chat_proto::common::MessageBase;
use prost::Message;

/// Builds a chat request of 64 bytes, of user 1 in the game `mmo`.
#[must_use]
pub fn chat_request() -> Vec<u8> {
    let base = MessageBase { game_id: "mmo".to_owned(), user_id: 1, timestamp: 1_700_000_000_000 };
    ChatRequest { base: Some(base), content: "x".repeat(46), ..ChatRequest::default() }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_has_64_bytes() {
        assert_eq!(super::chat_request().len(), 64);
    }
}
