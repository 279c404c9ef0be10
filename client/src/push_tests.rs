use chat_proto::common::MessageBase;

use super::*;

fn chat(payload: impl Into<Vec<u8>>) -> Option<Push> {
    Push::of(&Packet::push(ROUTE_CHAT, 1, payload.into()))
}

#[track_caller]
fn check_response(response: ChatResponse) {
    assert_eq!(chat(response.encode_to_vec()), Some(Push::Response(response)));
}

#[track_caller]
fn check_broadcast(broadcast: MessageBroadcast) {
    assert_eq!(chat(broadcast.encode_to_vec()), Some(Push::Broadcast(broadcast)));
}

#[test]
fn responses_are_known_by_any_of_their_own_fields() {
    let base = Some(MessageBase { game_id: "mmo".into(), user_id: 1, timestamp: 5 });
    check_response(ChatResponse { base, success: true, message_id: 17, target_user_id: 1, ..Default::default() });
    check_response(ChatResponse { base: Some(MessageBase::default()), ..Default::default() });
    check_response(ChatResponse { timestamp: 5, ..Default::default() });
    check_response(ChatResponse { error_message: "no".into(), target_session_id: "s".into(), ..Default::default() });
}

#[test]
fn broadcasts_are_known_by_any_of_their_own_fields() {
    check_broadcast(MessageBroadcast { message_id: 17, sender_id: 1, target_user_id: 2, ..Default::default() });
    check_broadcast(MessageBroadcast { message_id: -1, ..Default::default() });
    check_broadcast(MessageBroadcast { sender_id: 1, content: "hi".into(), ..Default::default() });
    check_broadcast(MessageBroadcast { sender_id: 1, timestamp: 5, ..Default::default() });
    check_broadcast(MessageBroadcast { sender_id: 1, r#type: 1, ..Default::default() });
    check_broadcast(MessageBroadcast { sender_id: 2, target_user_id: 1, ..Default::default() });
}

#[test]
fn a_payload_that_could_be_both_is_a_terse_response() {
    check_response(ChatResponse { success: true, target_user_id: 1, ..Default::default() });
    check_response(ChatResponse { error_message: "full".into(), target_user_id: 1, ..Default::default() });
}

#[test]
fn fields_of_a_later_version_do_not_matter() {
    let mut later = ChatResponse { timestamp: 5, ..Default::default() }.encode_to_vec();
    later.extend(b"\x6a\x02hi"); // field 13, two bytes
    assert_eq!(chat(later), Some(Push::Response(ChatResponse { timestamp: 5, ..Default::default() })));
}

#[test]
fn other_payloads_are_left_alone() {
    assert_eq!(chat(""), None);
    assert_eq!(chat("hello"), None);
    assert_eq!(chat(*b"\x6a\x02hi"), None, "no field that is known");
    assert_eq!(chat(*b"\x08\x01\x5a\x01s"), None, "field 1 of a broadcast, field 11 of a response");
    assert_eq!(chat(*b"\x18\x01"), None, "field 3 is a string in both");
    assert_eq!(chat(*b"\x08\x01\x2a\x01\xff"), None, "content that is not UTF-8");
    assert_eq!(chat(*b"\x08\x01\x2a\x05hi"), None, "cut short");
    assert_eq!(chat(*b"\x0b\x0c"), None, "a group");
    assert_eq!(chat(*b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), None, "an endless varint");
}

#[test]
fn a_welcome_is_the_system_push_with_seq_0() {
    let welcome = Welcome { session_id: "s".into(), server_time_ms: 5, ..Welcome::default() };
    let packet = |seq| Packet::push(ROUTE_SYSTEM, seq, welcome.encode_to_vec());
    assert_eq!(Push::of(&packet(0)), Some(Push::Welcome(welcome.clone())));
    assert_eq!(Push::of(&packet(1)), None);
    assert_eq!(Push::of(&packet(0).reply(0, "")), None);
    assert_eq!(Push::of(&Packet::push(ROUTE_SYSTEM, 0, "")), None, "no session id");
}
