//! The chat messages of the load. Each has exactly the length that is asked for, and its number at a known place.

use anyhow::{Context, bail, ensure};
use chat_proto::chat::{ChatRequest, ChatResponse};
use chat_proto::common::MessageBase;
use prost::Message;
use prost::encoding::encoded_len_varint;

use crate::template::{Form, NUMBER_BYTES, Payload, first_number};

/// The bytes of a `ChatRequest` before the game id: the tag of `base` and its length, the tag of `game_id` and its
/// length.
const BEFORE_GAME: usize = 4;

/// Builds a `ChatRequest` of `size` bytes. The timestamp is the number, and the content is the padding.
pub(crate) fn request(game_id: &str, user_id: i32, size: usize) -> anyhow::Result<Payload> {
    let base = MessageBase { game_id: game_id.to_owned(), user_id, timestamp: first_number() };
    let bytes = padded(size, |content, filler| ChatRequest {
        base: Some(base.clone()),
        channel_id: i32::from(filler),
        content,
        ..ChatRequest::default()
    })
    .context("a ChatRequest")?;
    let number_at = BEFORE_GAME + game_id.len() + field_len(user_id) + 1;
    Ok(Payload { bytes, number_at: Some(number_at), form: Form::Varint })
}

/// Builds a `ChatResponse` of `size` bytes for a user. The message id is the number, and the error message, which is
/// its only text, is the padding.
pub(crate) fn response(target_user_id: i32, size: usize) -> anyhow::Result<Payload> {
    let bytes = padded(size, |error_message, success| ChatResponse {
        success,
        error_message,
        message_id: first_number(),
        target_user_id,
        ..ChatResponse::default()
    })
    .context("a ChatResponse")?;
    let number_at = bytes.len() - field_len(target_user_id) - NUMBER_BYTES;
    Ok(Payload { bytes, number_at: Some(number_at), form: Form::Varint })
}

/// Builds the payload of a heartbeat: the user id over and over, so that replies that are mixed up are noticed.
pub(crate) fn heartbeat(user_id: i32, size: usize) -> Payload {
    let bytes = user_id.to_be_bytes().into_iter().rev().cycle().take(size).collect();
    Payload { bytes, number_at: None, form: Form::Varint }
}

/// Builds a text of `size` bytes that begins with the number.
pub(crate) fn text(size: usize) -> anyhow::Result<Payload> {
    ensure!(size >= NUMBER_BYTES, "--payload {size}: {NUMBER_BYTES} bytes are the least");
    Ok(Payload { bytes: vec![b'x'; size], number_at: Some(0), form: Form::Letters })
}

/// Returns the user id in a serialized `ChatRequest` of this game that [`request`] has built, or `None` for any other
/// bytes.
pub(crate) fn user_of(request: &[u8], game_id: &str) -> Option<i32> {
    let [0x0a, _, 0x0a, length, rest @ ..] = request else { return None };
    let mut rest = rest.strip_prefix(game_id.as_bytes()).filter(|_| usize::from(*length) == game_id.len())?;
    rest = rest.strip_prefix(&[0x10])?;
    prost::encoding::decode_varint(&mut rest).ok().and_then(|user_id| i32::try_from(user_id).ok())
}

/// The length of the tag and the varint of a positive id.
fn field_len(id: i32) -> usize {
    1 + encoded_len_varint(u64::from(id.unsigned_abs()))
}

/// Finds the text with which the message has `size` bytes. There may be no such text where the length of the text takes
/// a byte more. A filler, which is a flag of two bytes, then makes up the difference.
fn padded<M: Message>(size: usize, message: impl Fn(String, bool) -> M) -> anyhow::Result<Vec<u8>> {
    for filler in [false, true] {
        let bare = message(String::new(), filler).encoded_len();
        for length_bytes in 1..=5 {
            let text = size.saturating_sub(bare + 1 + length_bytes);
            if text > 0 && encoded_len_varint(text as u64) == length_bytes {
                return Ok(message("x".repeat(text), filler).encode_to_vec());
            }
        }
    }
    bail!("--payload {size}: {} bytes are the least", message("x".into(), false).encoded_len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Template;

    /// Sizes around those at which lengths take a byte more, and some between.
    fn sizes(least: usize) -> impl Iterator<Item = usize> {
        (least..400).chain(16_395..16_420).chain(2_097_170..2_097_185)
    }

    /// The payload as it is sent.
    fn numbered(payload: &Payload, number: u64) -> Vec<u8> {
        let mut sent = Vec::new();
        let Payload { bytes, number_at, form } = payload.clone();
        Template { bytes, seq_at: None, number_at, form }.append(number, &mut sent);
        sent
    }

    #[test]
    fn a_request_has_its_size_and_says_what_is_meant() {
        for user_id in [1, 127, 128, 50_000, i32::MAX] {
            let least = 19 + field_len(user_id) - 1;
            for size in sizes(least) {
                let payload = request("mmo", user_id, size).unwrap();
                let sent = numbered(&payload, 1000);
                assert_eq!(sent.len(), size);
                assert_eq!(payload.number_in(&sent), Some(1000));
                assert_eq!(user_of(&sent, "mmo"), Some(user_id));
                let request = ChatRequest::decode(&sent[..]).unwrap();
                assert!(request.content.bytes().all(|byte| byte == b'x'));
                let base = request.base.unwrap();
                assert_eq!((base.game_id.as_str(), base.user_id), ("mmo", user_id));
                assert_eq!(base.timestamp, first_number() + 1000);
            }
        }
    }

    #[test]
    fn a_response_has_its_size_and_its_target() {
        for user_id in [1, 127, 128, 50_000, i32::MAX] {
            let least = 11 + field_len(user_id);
            for size in sizes(least) {
                let payload = response(user_id, size).unwrap();
                let sent = numbered(&payload, 1000);
                assert_eq!(sent.len(), size);
                assert_eq!(payload.number_in(&sent), Some(1000));
                let response = ChatResponse::decode(&sent[..]).unwrap();
                assert_eq!((response.target_user_id, response.message_id), (user_id, first_number() + 1000));
            }
        }
    }

    #[test]
    fn too_small_a_payload_is_refused_with_the_least() {
        let refusal = |outcome: anyhow::Result<Payload>| format!("{:#}", outcome.err().unwrap());
        assert_eq!(refusal(request("mmo", 1, 5)), "a ChatRequest: --payload 5: 20 bytes are the least");
        assert_eq!(refusal(response(200, 0)), "a ChatResponse: --payload 0: 14 bytes are the least");
        assert!(request("mmo", 1, 19).is_err());
        assert!(request("mmo", 1, 20).is_ok());
    }

    #[test]
    fn a_text_has_its_size_and_its_number() {
        for size in [7, 8, 64] {
            let payload = text(size).unwrap();
            let sent = numbered(&payload, 1000);
            assert!(sent.is_ascii());
            assert_eq!((sent.len(), payload.number_in(&sent)), (size, Some(1000)));
        }
        assert_eq!(text(6).err().unwrap().to_string(), "--payload 6: 7 bytes are the least");
    }

    #[test]
    fn requests_of_others_have_no_user_here() {
        let other = request("other", 7, 64).unwrap().bytes;
        assert_eq!(user_of(&other, "other"), Some(7));
        for game in ["mmo", "othe", "others"] {
            assert_eq!(user_of(&other, game), None, "{game}");
        }
        for length in 0..10 {
            assert_eq!(user_of(&other[..length], "other"), None);
        }
    }

    #[test]
    fn heartbeats_of_users_differ() {
        assert_eq!(heartbeat(0x0102, 6).bytes, [2, 1, 0, 0, 2, 1]);
        assert_eq!(heartbeat(1, 0).bytes, []);
    }
}
