//! Tests of the rules with tokens of this library. Tokens of an independent library are in the end-to-end tests.

use super::*;
use crate::config::Config;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

const SECRET: &str = "a secret of at least 32 bytes, as HS256 needs it";

pub(crate) fn authenticator(keys: &str) -> Authenticator {
    let auth = Authenticator::new(Arc::default());
    let yaml = format!("plugins: {{ directory: . }}\nauth: {{ jwt_secret: {SECRET:?}, {keys} }}\n");
    auth.configure(Config::parse(&yaml).unwrap().auth.as_ref());
    auth
}

pub(crate) fn token(claims: &Value) -> String {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

#[tokio::test]
async fn a_token_is_needed_only_if_it_is_required_and_a_bad_one_is_always_denied() {
    let off = Authenticator::new(Arc::default());
    assert_eq!((off.is_on(), off.identify(Some("x")).await), (false, Ok(None)));
    let (required, optional) = (authenticator(""), authenticator("required: false"));
    assert_eq!(required.identify(None).await, Err(Denied::Missing));
    assert_eq!(optional.identify(None).await, Ok(None));
    for auth in [required, optional] {
        assert!(matches!(auth.identify(Some("")).await, Err(Denied::Invalid(_))));
        let valid = auth.identify(Some(&token(&json!({ "sub": "7", "exp": 9_000_000_000_u64 })))).await;
        let identity = Identity { user: 7, expires_ms: Some(9_000_000_000_000), leeway_ms: 5000 };
        assert_eq!(valid, Ok(Some(identity)));
    }
}

#[tokio::test]
async fn the_user_is_in_the_configured_claim() {
    let auth = authenticator("user_claim: uid, on_expiry: ignore");
    let valid = auth.identify(Some(&token(&json!({ "sub": "x", "uid": 8, "exp": 9e9 })))).await;
    assert_eq!(valid, Ok(Some(Identity { user: 8, expires_ms: None, leeway_ms: 5000 })));
    let denied = auth.identify(Some(&token(&json!({ "sub": "7", "exp": 9e9 })))).await.unwrap_err();
    let text = "the token's claim `uid` is no user id, which is a number from 1 to 9223372036854775807";
    assert_eq!(denied.to_string(), text);
}

#[tokio::test]
async fn an_issuer_and_an_audience_that_are_configured_have_to_be_in_the_token() {
    let auth = authenticator("issuer: us, audience: [game, chat]");
    let why = |claims: Value| {
        let mut all = json!({ "sub": "7", "exp": 9_000_000_000_u64 });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let token = token(&all);
        let auth = &auth;
        async move { auth.identify(Some(&token)).await.map(|_| ()).map_err(|denied| denied.to_string()) }
    };
    assert_eq!(why(json!({ "iss": "us", "aud": "chat" })).await, Ok(()));
    assert_eq!(why(json!({ "iss": "us", "aud": ["x", "game"] })).await, Ok(()));
    let invalid = |why: &str| Err(format!("the token is not valid: {why}"));
    assert_eq!(why(json!({ "iss": "them", "aud": "chat" })).await, invalid("it has another issuer (`iss`)"));
    assert_eq!(why(json!({ "aud": "chat" })).await, invalid("its `iss` is missing or not a text"));
    assert_eq!(why(json!({ "iss": "us", "aud": "x" })).await, invalid("it is for another audience (`aud`)"));
    assert_eq!(why(json!({ "iss": "us" })).await, invalid("its `aud` is missing or not a text"));
    assert_eq!(why(json!({ "iss": "us", "aud": 7 })).await, invalid("its `aud` is missing or not a text"));
}

#[test]
fn the_claims_are_the_payload_of_the_token() {
    let token = token(&json!({ "sub": "7", "exp": 9_000_000_000_u64, "name": "Zoë" }));
    assert_eq!(claims(&token).unwrap(), r#"{"exp":9000000000,"name":"Zoë","sub":"7"}"#);
    assert_eq!((claims("a"), claims("a.!.b"), claims("")), (None, None, None));
}
