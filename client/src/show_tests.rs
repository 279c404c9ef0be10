use bytes::Bytes;
use gateway_proto::{Control, Reconnect, Welcome, control};
use prost::Message;
use std::time::Duration;

use super::*;

#[track_caller]
fn check(packet: Packet, line: &str) {
    assert_eq!(super::packet(&packet), line);
}

#[track_caller]
fn check_push(seq: u32, message: &impl Message, line: &str) {
    check(Packet::push(ROUTE_CHAT, seq, message.encode_to_vec()), line);
}

#[test]
fn a_welcome() {
    let welcome = Welcome { session_id: "3f2a".into(), server_time_ms: 1_700_000_000_123, ..Welcome::default() };
    check(
        Packet::push(ROUTE_SYSTEM, 0, welcome.encode_to_vec()),
        "< push #0 system  welcome: session 3f2a, server time 1700000000123 ms",
    );
}

#[test]
fn broadcasts() {
    let mut chat = MessageBroadcast {
        message_id: 17,
        sender_id: 1,
        content: "hello".into(),
        target_user_id: 2,
        ..Default::default()
    };
    check_push(1, &chat, "< push #1 chat  from user 1 (message 17): hello");
    chat.sender_name = "Ann".into();
    chat.channel_id = 7;
    chat.r#type = MessageType::Emoji.into();
    check_push(2, &chat, "< push #2 chat  from user 1 \"Ann\" in channel 7 (message 17, emoji): hello");
    chat.r#type = 99;
    check_push(3, &chat, "< push #3 chat  from user 1 \"Ann\" in channel 7 (message 17, type 99): hello");
}

#[test]
fn responses() {
    let ok = ChatResponse { success: true, message_id: 17, timestamp: 5, ..Default::default() };
    check_push(2, &ok, "< push #2 chat  response: ok, message 17");
    let failed = ChatResponse { error_message: "muted\r\nfor 5 min".into(), timestamp: 5, ..Default::default() };
    check_push(3, &failed, "< push #3 chat  response: failed: muted\\r\\nfor 5 min");
}

#[test]
fn replies() {
    let request = Packet::request(4, ROUTE_CHAT, "");
    check(request.reply(6, "another user's id"), "< reply #4 chat  status 6 forbidden: another user's id");
    check(request.reply(7, ""), "< reply #4 chat  status 7 too many requests");
    check(request.reply(99, &b"\xff"[..]), "< reply #4 chat  status 99 unknown: \u{fffd}");
    check(request.reply(0, ""), "< reply #4 chat  status 0 ok, empty");
    check(Packet::request(5, ROUTE_SYSTEM, "").reply(0, "ping"), "< reply #5 system  status 0 ok, 4 bytes \"ping\"");
}

#[test]
fn gaps() {
    let control = Control { event: Some(control::Event::Gap(Gap { blind_ms: 2100 })) };
    check(
        Packet::push(ROUTE_CONTROL, 0, control.encode_to_vec()),
        "< push #0 control  messages of about 2100 ms may be lost",
    );
    check(Packet::push(ROUTE_CONTROL, 0, ""), "< push #0 control  empty");
}

#[test]
fn a_gateway_that_stops() {
    let control = Control { event: Some(control::Event::Reconnect(Reconnect { url: String::new(), after_ms: 1500 })) };
    check(
        Packet::push(ROUTE_CONTROL, 0, control.encode_to_vec()),
        "< push #0 control  the gateway stops: reconnect in 1500 ms",
    );
}

#[test]
fn breaks() {
    let away = Duration::from_millis(1240);
    let check = |event, line: &str| assert_eq!(super::event(&event), line);
    let why = "the connection is lost: \x1b".to_owned();
    check(
        Event::Reconnecting { why, delay: Duration::from_millis(360) },
        "* the connection is lost: \\u{1b}; reconnecting in 0.4 s",
    );
    check(
        Event::Resumed { away, resent: 0, lost: 0, replies_lost: 0 },
        "* resumed after 1.2 s: what came meanwhile follows",
    );
    check(
        Event::Resumed { away, resent: 1, lost: 2, replies_lost: 1 },
        "* resumed after 1.2 s: what came meanwhile follows, 1 packet is sent again, 2 packets were lost, \
         1 reply was lost",
    );
    check(
        Event::New { away, seen: 0, lost: 0 },
        "* new session after 1.2 s: messages after push #0 may have been lost",
    );
    check(
        Event::New { away, seen: 12, lost: 2 },
        "* new session after 1.2 s: messages after push #12 may have been lost, 2 packets were not sent",
    );
}

#[test]
fn payloads_of_other_kinds() {
    check(Packet::push(ROUTE_GAME, 1, "x"), "< push #1 game  1 byte \"x\"");
    check(Packet::push(0x2a, 2, "day\n"), "< push #2 route 0x2a  4 bytes 0x6461790a");
    check(Packet::push(ROUTE_CHAT, 3, &b"\x00\xff"[..]), "< push #3 chat  2 bytes 0x00ff");
    let long = format!("< push #4 game  65 bytes 0x{}…", "00".repeat(64));
    check(Packet::push(ROUTE_GAME, 4, vec![0; 65]), &long);
}

#[test]
fn messages_that_are_no_packets() {
    let line = received(&Received::NoPacket(Bytes::from_static(b"oops\x1b")));
    assert_eq!(line, "< no packet: 5 bytes 0x6f6f70731b");
}

#[test]
fn the_text_of_strangers_is_made_fit_for_a_terminal() {
    let chat = MessageBroadcast {
        message_id: 1,
        sender_name: "\x1b[31m".into(),
        content: "\x1b[2J\n< push #9 chat".into(),
        ..Default::default()
    };
    check_push(1, &chat, "< push #1 chat  from user 0 \"\\u{1b}[31m\" (message 1): \\u{1b}[2J\\n< push #9 chat");
}
