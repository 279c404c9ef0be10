//! Finds the token with which a client shows who it is.

use crate::net::{
    head::{self, Head},
    subprotocol,
};

/// Returns the client's token: the first one in the order of `Authorization`, the subprotocols and the query.
#[must_use]
pub fn token<'a>(head: &Head<'_, 'a>) -> Option<&'a str> {
    let bearer = head::value(head, "authorization").and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    bearer
        .or_else(|| subprotocol::token(head))
        .or_else(|| head::parameters(head).find_map(|pair| pair.strip_prefix("token=")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_wins_over_the_subprotocol_which_wins_over_the_query() {
        let found = |target: &str, lines: &str| {
            head::with_target(target, lines.as_bytes(), |head| token(head).map(str::to_owned)).unwrap_or_default()
        };
        let (header, offer) = ("Authorization: bEARER header\r\n", "Sec-WebSocket-Protocol: game.v1, bearer.offer\r\n");
        assert_eq!(found("/ws?token=query", &format!("{offer}{header}")), "header");
        assert_eq!(found("/ws?token=query", offer), "offer");
        assert_eq!(found("/ws?token=query", &format!("Authorization: Basic x\r\n{offer}")), "offer");
        assert_eq!(found("/ws?token=query", "Sec-WebSocket-Protocol: game.v1\r\n"), "query");
        assert_eq!(found("/ws", ""), "");
    }
}
