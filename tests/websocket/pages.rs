//! Tests of what web pages meet: the check of their origin, and the negotiation of a subprotocol.

use crate::assert_serving;
use gateway_tests::{
    Gateway, Setup,
    wire::{Response, UPGRADE, Wire},
};

/// Sends an upgrade with these lines and returns the answer. A connection that is refused has to end.
async fn answer(gateway: &Gateway, path: &str, lines: &str) -> Response {
    let mut wire = Wire::connect(gateway.address).await;
    let request = UPGRADE.replace("/ws", path).replace("\r\nHost", &format!("\r\n{lines}Host"));
    wire.send(request.as_bytes()).await;
    let response = wire.response().await;
    if response.status != 101 {
        assert_eq!(wire.frame().await, None, "{lines:?}: the connection does not end");
    }
    response
}

#[tokio::test]
async fn only_pages_of_the_allowed_origins_connect() {
    let keys = "allowed_origins: ['https://game.example', 'https://*.example.com', 'http://localhost:3000']";
    let gateway = Gateway::start(Setup::server(keys)).await;
    let allowed = [
        "",
        "Origin: https://game.example\r\n",
        "origin: HTTPS://GAME.Example:443\r\n",
        "Origin: https://a.example.com\r\n",
        "Origin: https://a.b.example.com\r\n",
        "Origin: http://localhost:3000\r\n",
    ];
    for lines in allowed {
        assert_eq!(answer(&gateway, "/ws", lines).await.status, 101, "{lines:?}");
    }
    let refused = [
        "Origin: null\r\n",
        "Origin:\r\n",
        "Origin: https://example.com\r\n",
        "Origin: http://game.example\r\n",
        "Origin: https://game.example:8443\r\n",
        "Origin: https://game.example.evil\r\n",
        "Origin: https://evil.example/.example.com\r\n",
        "Origin: http://localhost\r\n",
        "Origin: https://game.example\r\nOrigin: https://game.example\r\n",
        "Origin: https://evil.example\r\nOrigin: https://game.example\r\n",
    ];
    for lines in refused {
        let response = answer(&gateway, "/ws", lines).await;
        let origins: Vec<_> = lines.lines().map(|line| line["Origin:".len()..].trim()).collect();
        let body = format!("web pages of the origin {:?} may not connect\n", origins.join(", "));
        assert!(response.head.starts_with("HTTP/1.1 403 Forbidden\r\nConnection: close\r\n"), "{response:?}");
        assert_eq!((response.status, response.body), (403, body), "{lines:?}");
    }
    let count = refused.len() as f64;
    gateway.metric_is("gateway_handshakes_refused_total{reason=\"origin\"}", count).await;
    assert_serving(&gateway).await;
}

#[tokio::test]
async fn an_empty_list_keeps_all_pages_out_and_no_list_none() {
    let gateway = Gateway::start(Setup::server("allowed_origins: []")).await;
    assert_eq!(answer(&gateway, "/ws", "Origin: https://game.example\r\n").await.status, 403);
    assert_eq!(answer(&gateway, "/ws", "").await.status, 101);
    let gateway = Gateway::start(Setup::default()).await;
    for lines in ["Origin: null\r\n", "Origin: https://a.example\r\nOrigin: b\r\n"] {
        assert_eq!(answer(&gateway, "/ws", lines).await.status, 101, "{lines:?}");
    }
}

/// Asserts that the upgrade succeeds and that the answer names this subprotocol.
async fn assert_chosen(gateway: &Gateway, lines: &str, chosen: Option<&str>) {
    let response = answer(gateway, "/ws", lines).await;
    assert_eq!((response.status, response.header("Sec-WebSocket-Protocol")), (101, chosen), "{lines:?}: {response:?}");
    assert_eq!(response.head.matches("Protocol").count(), 1 + usize::from(chosen.is_some()), "{response:?}");
}

#[tokio::test]
async fn the_first_offered_subprotocol_that_is_listed_is_chosen() {
    let gateway = Gateway::start(Setup::server("subprotocols: [game.v2, game.v1]")).await;
    assert_chosen(&gateway, "", None).await;
    assert_chosen(&gateway, "Sec-WebSocket-Protocol: game.v1\r\n", Some("game.v1")).await;
    assert_chosen(&gateway, "Sec-WebSocket-Protocol: game.v1, game.v2\r\n", Some("game.v1")).await;
    assert_chosen(&gateway, "sec-websocket-protocol: x ,game.v2\r\n", Some("game.v2")).await;
    let two = "Sec-WebSocket-Protocol: x, y\r\nSec-WebSocket-Protocol: z, game.v1\r\n";
    assert_chosen(&gateway, two, Some("game.v1")).await;
    assert_chosen(&gateway, "Sec-WebSocket-Protocol: x, GAME.V1\r\n", None).await;
    assert_chosen(&gateway, "Sec-WebSocket-Protocol: bearer.x\r\n", None).await;
    assert_chosen(&gateway, "Sec-WebSocket-Protocol: bearer.x, game.v2\r\n", Some("game.v2")).await;
    let gateway = Gateway::start(Setup::default()).await;
    assert_chosen(&gateway, "Sec-WebSocket-Protocol: game.v1\r\n", None).await;
}

#[tokio::test]
async fn a_client_whose_subprotocols_are_not_listed_is_named_in_the_debug_log() {
    let env = vec![("RUST_LOG", "info,gateway=debug")];
    let gateway = Gateway::start(Setup { env, ..Setup::server("subprotocols: [game.v1]") }).await;
    assert_chosen(&gateway, "Sec-WebSocket-Protocol: other, bearer.secret-token\r\n", None).await;
    gateway.logged("a client offers subprotocols, but none that `server.subprotocols` lists").await;
    assert!(!format!("{:?}", gateway.log_lines()).contains("secret-token"));
}

const SECRET: &str = "the secret of the end-to-end tests";
/// A token of user 7, as in tests/websocket/authentication.rs.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI3IiwiZXhwIjo0MTAyNDQ0ODAwfQ.\
                     lctmq-Ga5Rj75C4DPf4_QQNagz7Ry1fMMtFnVzaXxiw";

#[tokio::test]
async fn a_token_among_the_subprotocols_is_checked_and_neither_echoed_nor_logged() {
    let setup = Setup::server("subprotocols: [game.v1]");
    let yaml = format!("{}\nauth: {{ jwt_secret: {SECRET:?} }}", setup.yaml);
    let gateway = Gateway::start(Setup { yaml, env: vec![("RUST_LOG", "trace")], ..setup }).await;
    let offer = |token: &str| format!("Sec-WebSocket-Protocol: game.v1, bearer.{token}\r\n");
    assert_chosen(&gateway, &offer(TOKEN), Some("game.v1")).await;
    assert_chosen(&gateway, &format!("Sec-WebSocket-Protocol: bearer.{TOKEN}\r\n"), None).await;
    let response = answer(&gateway, "/ws", &offer("x")).await;
    assert_eq!(response.status, 401);
    assert!(response.body.starts_with("the token is not valid: "), "{response:?}");
    // The header `Authorization` wins over the subprotocol, which wins over the query.
    let authorization = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let query = |token: &str| format!("/ws?token={token}");
    let cases = [
        ("/ws", offer("x") + &authorization(TOKEN), 101),
        ("/ws", offer(TOKEN) + &authorization("x"), 401),
        (&query("x"), offer(TOKEN), 101),
        (&query(TOKEN), offer("x"), 401),
        (&query(TOKEN), "Sec-WebSocket-Protocol: game.v1\r\n".to_owned(), 101),
    ];
    for (path, lines, status) in cases {
        assert_eq!(answer(&gateway, path, &lines).await.status, status, "{path} {lines}");
    }
    gateway.logged("handshake refused").await;
    let log = format!("{:?}", gateway.log_lines());
    assert!(!log.contains(TOKEN), "{log}");
}
