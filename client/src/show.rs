//! A packet as one line of text. The text of strangers in it is made fit for a terminal.

use std::fmt::Write;

use chat_proto::chat::chat_request::MessageType;
use chat_proto::chat::{ChatResponse, MessageBroadcast};
use gateway_connection::text::{clean, is_printable};
use gateway_connection::{Event, Received};
use gateway_proto::Gap;
use gateway_wire::packet::{Packet, ROUTE_CHAT, ROUTE_CONTROL, ROUTE_GAME, ROUTE_SYSTEM, Status};

use crate::push::Push;

/// The most bytes of a payload that are shown in hex. More of them would push everything else off the screen.
const MAX_HEX_BYTES: usize = 64;

/// An event of a session on one line, without the end of the line.
pub(crate) fn event(event: &Event) -> String {
    match event {
        Event::Received(received) => self::received(received),
        Event::Reconnecting { why, delay } => format!("* {}; reconnecting in {:.1} s", clean(why), delay.as_secs_f64()),
        Event::Resumed { away, resent, lost, replies_lost } => {
            let mut line = format!("* resumed after {:.1} s: what came meanwhile follows", away.as_secs_f64());
            count(&mut line, *resent, "packet is sent again", "packets are sent again");
            count(&mut line, *lost, "packet was lost", "packets were lost");
            count(&mut line, (*replies_lost).into(), "reply was lost", "replies were lost");
            line
        }
        Event::New { away, seen, lost } => {
            let away = away.as_secs_f64();
            let mut line = format!("* new session after {away:.1} s: messages after push #{seen} may have been lost");
            count(&mut line, *lost, "packet was not sent", "packets were not sent");
            line
        }
    }
}

/// Adds a count to a line, unless it is 0.
fn count(line: &mut String, count: u64, one: &str, many: &str) {
    if count > 0 {
        // Writing to a String cannot fail.
        let _ = write!(line, ", {count} {}", if count == 1 { one } else { many });
    }
}

/// A received message on one line, without the end of the line.
pub(crate) fn received(received: &Received) -> String {
    match received {
        Received::Packet(packet) => self::packet(packet),
        Received::NoPacket(message) => format!("< no packet: {}", payload(message)),
    }
}

/// A packet on one line, such as `< push #1 chat  from user 1 (message 17): hello`.
pub(crate) fn packet(packet: &Packet) -> String {
    let direction = if packet.header.is_reply() { "reply" } else { "push" };
    format!("< {direction} #{} {}  {}", packet.header.seq, route(packet.header.route), content(packet))
}

/// The status of a packet and the reason in its payload, such as `status 6 forbidden: log in first`.
pub(crate) fn status(packet: &Packet) -> String {
    let number = packet.header.status;
    let name =
        Status::from_number(number).map_or_else(|| "unknown".to_owned(), |status| status.label().replace('_', " "));
    let reason = clean(&String::from_utf8_lossy(&packet.payload));
    let colon = if reason.is_empty() { "" } else { ": " };
    format!("status {number} {name}{colon}{reason}")
}

fn route(route: u8) -> String {
    match route {
        ROUTE_CONTROL => "control".into(),
        ROUTE_CHAT => "chat".into(),
        ROUTE_GAME => "game".into(),
        ROUTE_SYSTEM => "system".into(),
        other => format!("route 0x{other:02x}"),
    }
}

fn content(packet: &Packet) -> String {
    match Push::of(packet) {
        Some(Push::Welcome(welcome)) => {
            format!("welcome: session {}, server time {} ms", clean(&welcome.session_id), welcome.server_time_ms)
        }
        Some(Push::Gap(gap)) => self::gap(&gap),
        Some(Push::Reconnect(reconnect)) => format!("the gateway stops: reconnect in {} ms", reconnect.after_ms),
        Some(Push::Response(chat)) => response(&chat),
        Some(Push::Broadcast(chat)) => broadcast(&chat),
        None if packet.header.status != Status::Ok as u16 => status(packet),
        None if packet.header.is_reply() => format!("status 0 ok, {}", payload(&packet.payload)),
        None => payload(&packet.payload),
    }
}

/// What a gap means for the user.
pub(crate) fn gap(gap: &Gap) -> String {
    format!("messages of about {} ms may be lost", gap.blind_ms)
}

fn response(response: &ChatResponse) -> String {
    let mut line = String::from(if response.success { "response: ok" } else { "response: failed" });
    // Writing to a String cannot fail, here and below.
    if response.message_id != 0 {
        let _ = write!(line, ", message {}", response.message_id);
    }
    if !response.error_message.is_empty() {
        let _ = write!(line, ": {}", clean(&response.error_message));
    }
    line
}

fn broadcast(broadcast: &MessageBroadcast) -> String {
    let mut line = format!("from user {}", broadcast.sender_id);
    if !broadcast.sender_name.is_empty() {
        let _ = write!(line, " \"{}\"", clean(&broadcast.sender_name));
    }
    if broadcast.channel_id != 0 {
        let _ = write!(line, " in channel {}", broadcast.channel_id);
    }
    let kind = match MessageType::try_from(broadcast.r#type) {
        Ok(MessageType::Text) => String::new(),
        Ok(MessageType::Emoji) => ", emoji".into(),
        Ok(MessageType::Item) => ", item".into(),
        Ok(MessageType::Coordinate) => ", coordinate".into(),
        Err(_) => format!(", type {}", broadcast.r#type),
    };
    let _ = write!(line, " (message {}{kind}): {}", broadcast.message_id, clean(&broadcast.content));
    line
}

/// The bytes of a payload of an unknown kind: as text if they are printable text, otherwise in hex.
fn payload(payload: &[u8]) -> String {
    let count = payload.len();
    let unit = if count == 1 { "byte" } else { "bytes" };
    match std::str::from_utf8(payload) {
        Ok("") => "empty".into(),
        Ok(printable) if is_printable(printable) => {
            format!("{count} {unit} \"{}\"", clean(printable))
        }
        _ => {
            let hex: String = payload.iter().take(MAX_HEX_BYTES).map(|byte| format!("{byte:02x}")).collect();
            let more = if count > MAX_HEX_BYTES { "…" } else { "" };
            format!("{count} {unit} 0x{hex}{more}")
        }
    }
}

#[cfg(test)]
#[path = "show_tests.rs"]
mod tests;
