//! A packet as one line of text.
//!
//! Whatever a stranger wrote is cleaned first: a terminal obeys control characters, and nobody but its user shall give it
//! orders.

use std::fmt::Write;

use chat_proto::chat::chat_request::MessageType;
use chat_proto::chat::{ChatResponse, MessageBroadcast};

use crate::connection::Received;
use crate::packet::{Packet, ROUTE_CHAT, ROUTE_GAME, ROUTE_SYSTEM, STATUS_OK};
use crate::push::Push;

/// More characters than this of one text would only push everything else off the screen.
const MAX_TEXT_CHARS: usize = 2000;
/// The same for bytes in hex.
const MAX_HEX_BYTES: usize = 64;

/// What came in, on one line, without the line's end.
pub(crate) fn received(received: &Received) -> String {
    match received {
        Received::Packet(packet) => self::packet(packet),
        Received::NoPacket(message) => format!("< no packet: {}", payload(message)),
    }
}

/// For example `< push #1 chat  from user 1 (message 17): hello`.
pub(crate) fn packet(packet: &Packet) -> String {
    let direction = if packet.is_reply() { "reply" } else { "push" };
    format!("< {direction} #{} {}  {}", packet.seq, route(packet.route), content(packet))
}

/// For example `status 6 forbidden: log in first`.
pub(crate) fn status(packet: &Packet) -> String {
    let name = match packet.status {
        STATUS_OK => "ok",
        1 => "malformed packet",
        2 => "malformed payload",
        3 => "no such route",
        4 => "rejected by policy",
        5 => "unavailable",
        6 => "forbidden",
        7 => "too many requests",
        8 => "internal error",
        _ => "unknown",
    };
    let reason = text(&String::from_utf8_lossy(&packet.payload));
    let colon = if reason.is_empty() { "" } else { ": " };
    format!("status {} {name}{colon}{reason}", packet.status)
}

/// What a close code means (RFC 6455, section 7.4.1, and the registry that it founded).
pub(crate) fn close_code(code: u16) -> &'static str {
    match code {
        1000 => "normal closure",
        1001 => "going away (it is shutting down)",
        1002 => "protocol error",
        1003 => "unsupported data",
        1007 => "invalid data",
        1008 => "policy violation",
        1009 => "message too big",
        1011 => "internal error",
        1012 => "service restart",
        1013 => "try again later",
        _ => "(no code that this client knows)",
    }
}

/// A stranger's text, fit for a terminal: control characters are escaped, and what is too long is cut.
pub(crate) fn text(stranger: &str) -> String {
    let mut text = String::with_capacity(stranger.len().min(MAX_TEXT_CHARS));
    for (count, c) in stranger.chars().enumerate() {
        if count == MAX_TEXT_CHARS {
            // Writing to a String cannot fail.
            let _ = write!(text, "… ({} bytes)", stranger.len());
            break;
        }
        if obeyed_by_terminals(c) {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

/// Control characters, and those that turn the direction of the text around them or break the line.
fn obeyed_by_terminals(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn route(route: u8) -> String {
    match route {
        ROUTE_CHAT => "chat".into(),
        ROUTE_GAME => "game".into(),
        ROUTE_SYSTEM => "system".into(),
        other => format!("route 0x{other:02x}"),
    }
}

fn content(packet: &Packet) -> String {
    match Push::of(packet) {
        Some(Push::Welcome(welcome)) => {
            format!("welcome: session {}, server time {} ms", text(&welcome.session_id), welcome.server_time_ms)
        }
        Some(Push::Response(chat)) => response(&chat),
        Some(Push::Broadcast(chat)) => broadcast(&chat),
        None if packet.status != STATUS_OK => status(packet),
        None if packet.is_reply() => format!("status 0 ok, {}", payload(&packet.payload)),
        None => payload(&packet.payload),
    }
}

fn response(response: &ChatResponse) -> String {
    let mut line = String::from(if response.success { "response: ok" } else { "response: failed" });
    // Writing to a String cannot fail, here and below.
    if response.message_id != 0 {
        let _ = write!(line, ", message {}", response.message_id);
    }
    if !response.error_message.is_empty() {
        let _ = write!(line, ": {}", text(&response.error_message));
    }
    line
}

fn broadcast(broadcast: &MessageBroadcast) -> String {
    let mut line = format!("from user {}", broadcast.sender_id);
    if !broadcast.sender_name.is_empty() {
        let _ = write!(line, " \"{}\"", text(&broadcast.sender_name));
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
    let _ = write!(line, " (message {}{kind}): {}", broadcast.message_id, text(&broadcast.content));
    line
}

/// Bytes of no kind that is known: as text where they are printable text, else in hex.
fn payload(payload: &[u8]) -> String {
    let count = payload.len();
    let unit = if count == 1 { "byte" } else { "bytes" };
    match std::str::from_utf8(payload) {
        Ok("") => "empty".into(),
        Ok(printable) if !printable.contains(obeyed_by_terminals) => {
            format!("{count} {unit} \"{}\"", text(printable))
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
