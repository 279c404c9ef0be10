//! No token reaches the log, not even at the level `trace`.

use crate::{ask, by_header, by_query, claims_with, connected, key_set, setup};
use gateway_proto::{ClientControl, Refresh, client_control::Request};
use gateway_tests::{
    Gateway, Issuer, KeyServer, SECRET, Setup, header, in_time,
    wire::{BINARY, frame},
};
use prost::Message;
use serde_json::json;

#[tokio::test]
async fn no_part_of_a_token_reaches_the_log() {
    let mut issuer = Issuer::start().await;
    let server = KeyServer::start(&key_set(&[issuer.key("key-of-the-server", "p256").await])).await;
    let mut tokens = Vec::new();
    for claims in [
        json!({ "marker": "marked-claim" }),
        json!({ "exp": "marked-expiry" }),
        json!({ "exp": 1 }),
        json!({ "sub": "marked-subject" }),
        json!({ "aud": "marked-audience" }),
        json!({ "iss": "marked-issuer", "sub": "8" }),
    ] {
        tokens.push(issuer.sign_with_secret("HS256", &claims_with(claims.clone())).await);
        tokens.push(issuer.sign("ES256", "key-of-the-server", &claims_with(claims)).await);
    }
    tokens.push(
        issuer.sign_with("ES256", "key-of-the-server", json!({ "kid": "marked-key" }), &claims_with(json!({}))).await,
    );
    tokens.push(issuer.unsigned(&claims_with(json!({}))).await);
    tokens.push("marked.garbage!.that-is-no-token".to_owned());
    let auth = format!("jwt_secret: {SECRET:?}, jwks_url: \"{}\"", server.url());
    let gateway = Gateway::start(Setup { env: vec![("RUST_LOG", "trace")], ..setup(&auth) }).await;
    gateway.logged("keys of tokens loaded").await;
    let (first, others) = (tokens[0].clone(), &tokens);
    let mut session = connected(&gateway, &first).await;
    for (seq, token) in (1..).zip(others) {
        for request in [by_query(token), by_header(token)] {
            let (_, response) = ask(&gateway, &request).await;
            assert!(!response.body.contains("marked"), "{response:?}");
        }
        let request = Some(Request::Refresh(Refresh { token: token.clone() }));
        let packet = [header(seq, 0), ClientControl { request }.encode_to_vec()].concat();
        session.send(&frame(BINARY, &packet)).await;
        let reply = async {
            loop {
                let (first, reply) = session.frame().await.unwrap();
                if first == BINARY && reply[4] == 0 && reply[5] == 1 {
                    return reply;
                }
            }
        };
        let reply = in_time("the reply", reply).await;
        assert!(!String::from_utf8_lossy(&reply).contains("marked"), "{reply:?}");
    }
    // The log has the refusals, and everything else.
    for text in ["handshake refused", "packet refused", "\"TRACE\""] {
        gateway.logged(text).await;
    }
    let log = serde_json::to_string(&gateway.log_lines()).unwrap();
    for token in &tokens {
        // Header and claims are the same in many tokens, so a part of any length would be found.
        for part in token.split('.').filter(|part| part.len() > 6) {
            assert!(!log.contains(part) && !log.contains(&part[part.len() - 7..]), "{part} is in the log");
        }
    }
    for word in ["marked", SECRET] {
        assert!(!log.contains(word), "{word} is in the log");
    }
}
