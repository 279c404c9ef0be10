//! Negotiates the subprotocol of a WebSocket (RFC 6455, 1.9), and reads the token that may be among those on offer.
//!
//! Pages in a browser can set no header of a WebSocket request but this one. A token in it appears in no address, so no
//! proxy writes it to its log.

use crate::net::head::{self, Head};

/// The header with the subprotocols that the client offers.
pub const HEADER: &str = "sec-websocket-protocol";

/// What stands before a token in the list of subprotocols.
pub const BEARER: &str = "bearer.";

/// Returns the first subprotocol that the client offers and that the gateway speaks.
///
/// If there is none, the answer names none. Then the client decides (RFC 6455, 4.2.2): browsers end the connection.
#[must_use]
pub fn choose<'a>(head: &Head<'_, 'a>, spoken: &[String]) -> Option<&'a str> {
    let mut offered = offered(head).filter(|offered| !offered.starts_with(BEARER)).peekable();
    offered.peek()?;
    let chosen = offered.find(|offered| spoken.iter().any(|spoken| spoken == offered));
    if chosen.is_none() {
        tracing::debug!(
            "a client offers subprotocols, but none that `server.subprotocols` lists: browsers end such a connection"
        );
    }
    chosen
}

/// Returns the token among the subprotocols that the client offers.
#[must_use]
pub fn token<'a>(head: &Head<'_, 'a>) -> Option<&'a str> {
    offered(head).find_map(|offered| offered.strip_prefix(BEARER))
}

/// Returns the value of a header with subprotocols without its tokens.
#[must_use]
pub fn without_tokens(value: &str) -> String {
    let kept: Vec<_> = value.split(',').map(str::trim).filter(|offered| !offered.starts_with(BEARER)).collect();
    kept.join(", ")
}

fn offered<'a>(head: &Head<'_, 'a>) -> impl Iterator<Item = &'a str> {
    head::elements(head, HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &str, chosen: Option<&str>, token: Option<&str>) {
        let spoken = ["game.v2".to_owned(), "game.v1".to_owned()];
        let found = head::with(lines.as_bytes(), |head| {
            (choose(head, &spoken).map(str::to_owned), self::token(head).map(str::to_owned))
        });
        assert_eq!(found, (chosen.map(str::to_owned), token.map(str::to_owned)), "{lines:?}");
    }

    #[test]
    fn the_first_offer_that_is_listed_is_chosen() {
        check("", None, None);
        check("Sec-WebSocket-Protocol: game.v1\r\n", Some("game.v1"), None);
        check("Sec-WebSocket-Protocol: game.v1, game.v2\r\n", Some("game.v1"), None);
        check("sec-websocket-protocol:other,game.v2 ,game.v1\r\n", Some("game.v2"), None);
        check("Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Protocol: game.v1\r\n", Some("game.v1"), None);
        check("Sec-WebSocket-Protocol: GAME.V1\r\n", None, None);
        check("Sec-WebSocket-Protocol: game.v1 game.v2\r\n", None, None);
        check("Sec-WebSocket-Protocol: ,, \r\n", None, None);
    }

    #[test]
    fn a_token_is_one_of_the_offers_and_is_never_chosen() {
        check("Sec-WebSocket-Protocol: bearer.a.b.c\r\n", None, Some("a.b.c"));
        check("Sec-WebSocket-Protocol: game.v1, bearer.a.b.c\r\n", Some("game.v1"), Some("a.b.c"));
        check("Sec-WebSocket-Protocol: bearer.x\r\nSec-WebSocket-Protocol: game.v2\r\n", Some("game.v2"), Some("x"));
        check("Sec-WebSocket-Protocol: bearer.x, bearer.y\r\n", None, Some("x"));
        check("Sec-WebSocket-Protocol: Bearer.x, bearer\r\n", None, None);
        check("Sec-WebSocket-Protocol: bearer.\r\n", None, Some(""));
    }

    #[test]
    fn tokens_are_removed_from_a_value() {
        let removed = ["", "a", "a,b", "bearer.x", "a ,bearer.x.y, b", " bearer.x,bearer.y "].map(without_tokens);
        assert_eq!(removed, ["", "a", "a, b", "", "a, b", ""]);
    }
}
