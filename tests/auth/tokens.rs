//! Which tokens are accepted.

use crate::{accepted, after, answer, ask, by_header, claims, claims_with, connected, denied, key_set, start};
use gateway_tests::{
    Gateway, Issuer, SECRET, Setup, chat_request,
    wire::{BINARY, UPGRADE, Wire, frame},
};
use serde_json::json;

const UNKNOWN_KEY: &str = "no key fits its `kid` and `alg`";
const ALGORITHM: &str = "its algorithm is not accepted";

/// Starts a gateway that checks tokens with these keys in a file, and with these other keys of `auth`.
async fn with_keys(keys: &str, auth: &str) -> Gateway {
    let mut setup = crate::setup(&format!("jwks_file: plugins/keys.json{auth}"));
    setup.files.push(("keys.json", keys.as_bytes().to_vec()));
    Gateway::start(setup).await
}

/// Asserts that the session belongs to this user, because a chat request of another user is refused.
async fn assert_user(wire: &mut Wire, user: i32) {
    let other = chat_request("mmo", user + 1, "as another");
    wire.send(&frame(BINARY, &[&[0, 0, 0, 1, 1, 0, 0, 0], &other[..]].concat())).await;
    let (_, refusal) = wire.frame().await.unwrap();
    assert_eq!(refusal[..8], [0, 0, 0, 1, 1, 1, 0, 6], "{refusal:?}");
    let own = chat_request("mmo", user, "as myself");
    wire.send(&frame(BINARY, &[&[0, 0, 0, 2, 1, 0, 0, 0], &own[..]].concat())).await;
    let (_, push) = wire.frame().await.unwrap();
    assert_eq!(push[..8], [0, 0, 0, 1, 1, 0, 0, 0], "{push:?}");
}

#[tokio::test]
async fn each_algorithm_is_accepted_with_its_own_key_and_no_other() {
    let mut issuer = Issuer::start().await;
    let mut keys = Vec::new();
    for (name, kind) in [("r", "rsa"), ("e", "p256"), ("f", "p384"), ("d", "ed25519")] {
        keys.push(issuer.key(name, kind).await);
    }
    let gateway = with_keys(&key_set(&keys), &format!(", jwt_secret: {SECRET:?}")).await;
    let algorithms = [("RS256", "r"), ("RS384", "r"), ("RS512", "r"), ("ES256", "e"), ("ES384", "f"), ("EdDSA", "d")];
    for (algorithm, key) in algorithms {
        let token = issuer.sign(algorithm, key, &claims()).await;
        let mut wire = connected(&gateway, &token).await;
        assert_user(&mut wire, 7).await;
        drop(wire);
        gateway.metric_is("gateway_sessions", 0.0).await;
        // The id of another key, and a signature with another character.
        let (other, kid) = if key == "r" { ("PS256", "r") } else { (algorithm, "r") };
        let wrong = issuer.sign_with(other, key, json!({ "kid": kid }), &claims()).await;
        denied(&gateway, &wrong, if key == "r" { ALGORITHM } else { UNKNOWN_KEY }).await;
        let at = token.len() - 20;
        let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
        denied(&gateway, &[&token[..at], other, &token[at + 1..]].concat(), "its signature is wrong").await;
    }
    accepted(&gateway, &issuer.sign_with_secret("HS256", &claims()).await).await;
    denied(&gateway, &issuer.sign_with_secret("HS384", &claims()).await, ALGORITHM).await;
    denied(&gateway, &issuer.forge("r", &claims()).await, "its signature is wrong").await;
    let unsigned = issuer.unsigned(&claims()).await;
    denied(&gateway, &unsigned, "it is not a JSON Web Token with a supported algorithm").await;
}

#[tokio::test]
async fn a_public_key_is_never_the_secret_of_hs256() {
    let mut issuer = Issuer::start().await;
    let key = issuer.key("r", "rsa").await;
    let gateway = with_keys(&key_set(&[key]), "").await;
    accepted(&gateway, &issuer.sign("RS256", "r", &claims()).await).await;
    denied(&gateway, &issuer.forge("r", &claims()).await, ALGORITHM).await;
    denied(&gateway, &issuer.sign_with_secret("HS256", &claims()).await, ALGORITHM).await;
}

#[tokio::test]
async fn a_token_without_a_key_id_is_checked_with_a_few_keys_that_fit() {
    let mut issuer = Issuer::start().await;
    let mut keys = vec![issuer.key("a", "p256").await, issuer.key("b", "rsa").await];
    for id in ["c", "d", "e"] {
        keys.push(issuer.key(id, "p256").await);
    }
    let gateway = with_keys(&key_set(&keys), "").await;
    for id in ["a", "c", "d", "e"] {
        accepted(&gateway, &issuer.sign_with("ES256", id, json!({}), &claims()).await).await;
    }
    keys.push(issuer.key("f", "p256").await);
    let stranger = issuer.key("g", "p256").await;
    let unsigned = issuer.sign_with("ES256", "g", json!({}), &claims()).await;
    denied(&gateway, &unsigned, "its signature is wrong").await;
    drop(stranger);
    let more = with_keys(&key_set(&keys), "").await;
    accepted(&more, &issuer.sign_with("ES256", "a", json!({}), &claims()).await).await;
    let fifth = issuer.sign_with("ES256", "f", json!({}), &claims()).await;
    denied(&more, &fifth, "more than 4 keys fit, so it needs a `kid` that names one").await;
    accepted(&more, &issuer.sign_with("ES256", "f", json!({ "kid": "f" }), &claims()).await).await;
    denied(&gateway, &issuer.sign_with("RS256", "b", json!({ "kid": "d" }), &claims()).await, UNKNOWN_KEY).await;
    let extended = issuer.sign_with("ES256", "a", json!({ "kid": "a", "crit": ["exp"] }), &claims()).await;
    denied(&gateway, &extended, "its header has `crit`, and no extension is supported").await;
}

#[tokio::test]
async fn the_times_of_a_token_are_checked_with_the_leeway() {
    let mut issuer = Issuer::start().await;
    let gateway = start(&format!("jwt_secret: {SECRET:?}, leeway_s: 30, on_expiry: ignore")).await;
    let mut token = async |claims| issuer.sign_with_secret("HS256", &claims_with(claims)).await;
    accepted(&gateway, &token(json!({ "exp": after(-10) })).await).await;
    accepted(&gateway, &token(json!({ "nbf": after(10) })).await).await;
    denied(&gateway, &token(json!({ "exp": after(-60) })).await, "it has expired").await;
    denied(&gateway, &token(json!({ "nbf": after(3600) })).await, "it is not valid yet (`nbf`)").await;
    for exp in [json!(null), json!("soon"), json!(-1), json!([])] {
        denied(&gateway, &token(json!({ "exp": exp })).await, "its `exp` is missing or not a time").await;
    }
    accepted(&gateway, &token(json!({ "exp": u64::MAX })).await).await;
    let endless = issuer.sign_with_secret("HS256", &json!({ "sub": "7" })).await;
    denied(&gateway, &endless, "its `exp` is missing or not a time").await;
}

#[tokio::test]
async fn the_issuer_and_the_audience_are_those_of_the_configuration() {
    let mut issuer = Issuer::start().await;
    let strict = start(&format!("jwt_secret: {SECRET:?}, issuer: us, audience: [game, chat]")).await;
    let open = start(&format!("jwt_secret: {SECRET:?}")).await;
    let mut token = async |claims| issuer.sign_with_secret("HS256", &claims_with(claims)).await;
    accepted(&strict, &token(json!({ "iss": "us", "aud": ["x", "chat"] })).await).await;
    denied(&strict, &token(json!({ "iss": "them", "aud": "chat" })).await, "it has another issuer (`iss`)").await;
    denied(&strict, &token(json!({ "aud": "chat" })).await, "its `iss` is missing or not a text").await;
    denied(&strict, &token(json!({ "iss": "us", "aud": "x" })).await, "it is for another audience (`aud`)").await;
    denied(&strict, &token(json!({ "iss": "us" })).await, "its `aud` is missing or not a text").await;
    accepted(&open, &token(json!({ "iss": "them" })).await).await;
    // A token that is meant for others is not for a gateway without a name (RFC 7519, 4.1.3).
    denied(&open, &token(json!({ "aud": "x" })).await, "it is for an audience (`aud`), and none is configured").await;
}

#[tokio::test]
async fn the_user_is_a_number_or_a_decimal_text() {
    let mut issuer = Issuer::start().await;
    let gateway = start(&format!("jwt_secret: {SECRET:?}, user_claim: uid")).await;
    for user in [json!(7), json!("7")] {
        let token = issuer.sign_with_secret("HS256", &claims_with(json!({ "sub": "x", "uid": user }))).await;
        let mut wire = connected(&gateway, &token).await;
        assert_user(&mut wire, 7).await;
        drop(wire);
        gateway.metric_is("gateway_sessions", 0.0).await;
    }
    for user in [json!("zoe"), json!(0), json!(-7), json!(7.5), json!("9223372036854775808"), json!(null)] {
        let token = issuer.sign_with_secret("HS256", &claims_with(json!({ "uid": user }))).await;
        let text = "the token's claim `uid` is no user id, which is a number from 1 to 9223372036854775807\n";
        assert_eq!(answer(&gateway, &token).await, (401, text.to_owned()), "{user}");
    }
}

#[tokio::test]
async fn a_token_of_15_kb_is_accepted_and_a_longer_request_is_not() {
    let mut issuer = Issuer::start().await;
    let gateway = start(&format!("jwt_secret: {SECRET:?}")).await;
    let mut token =
        async |bytes| issuer.sign_with_secret("HS256", &claims_with(json!({ "x": "y".repeat(bytes) }))).await;
    let large = token(11_000).await;
    assert!((14_500..15_500).contains(&large.len()), "{}", large.len());
    accepted(&gateway, &large).await;
    let (_, response) = ask(&gateway, &by_header(&large)).await;
    assert_eq!(response.status, 101);
    assert_eq!(answer(&gateway, &token(12_500).await).await.0, 431);
}

#[tokio::test]
async fn without_required_a_client_is_anonymous_unless_its_token_is_bad() {
    let mut issuer = Issuer::start().await;
    let gateway = start(&format!("jwt_secret: {SECRET:?}, required: false")).await;
    let mut anonymous = Wire::upgraded(gateway.address).await;
    // No packet binds an anonymous session to a user.
    let request = [&[0, 0, 0, 1, 1, 0, 0, 0], &chat_request("mmo", 7, "hello")[..]].concat();
    anonymous.send(&frame(BINARY, &request)).await;
    let (_, answer) = anonymous.frame().await.unwrap();
    let why = "the session is anonymous, so it has no user: connect with a token";
    assert_eq!(answer, [&[0, 0, 0, 1, 1, 1, 0, 6], why.as_bytes()].concat());
    assert_user(&mut connected(&gateway, &issuer.sign_with_secret("HS256", &claims()).await).await, 7).await;
    denied(&gateway, "x", "it is not a JSON Web Token with a supported algorithm").await;
    gateway.metric_is("gateway_handshakes_refused_total{reason=\"denied\"}", 1.0).await;
    let required = Gateway::start(Setup { ..crate::setup(&format!("jwt_secret: {SECRET:?}")) }).await;
    assert_eq!(ask(&required, UPGRADE).await.1.status, 401);
}
