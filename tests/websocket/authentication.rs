//! Tests of tokens: JSON Web Tokens (RFC 7519) with HS256.
//!
//! The signatures are literals, made by another implementation of HMAC than the gateway's. Each is the signature of
//! exactly the header and the claims next to it.

use chat_proto::chat::{ChatRequest, ChatResponse, MessageBroadcast};
use gateway_tests::{
    Gateway, Setup, chat_request,
    wire::{BINARY, UPGRADE, Wire, frame},
};
use prost::Message;

const SECRET: &str = "the secret of the end-to-end tests";

const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// The claims of user 7, valid until the year 2100.
const CLAIMS: &str = r#"{"sub":"7","exp":4102444800}"#;
const SIGNATURE: &str = "lctmq-Ga5Rj75C4DPf4_QQNagz7Ry1fMMtFnVzaXxiw";

async fn start() -> Gateway {
    let yaml = format!("games: [{{ id: mmo }}]\nauth: {{ jwt_secret: {SECRET:?} }}");
    Gateway::start(Setup { yaml, plugins: vec!["chat", "system", "demo-chat"], ..Setup::default() }).await
}

/// Encodes text in Base64 with the URL alphabet and without padding, as tokens require.
fn base64url(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = |chunk: &[u8]| {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let digit = move |i: usize| char::from(ALPHABET[(bits >> (18 - 6 * i)) as usize & 63]);
        (0..=chunk.len()).map(digit).collect::<String>()
    };
    text.as_bytes().chunks(3).map(digits).collect()
}

fn token(header: &str, claims: &str, signature: &str) -> String {
    format!("{}.{}.{signature}", base64url(header), base64url(claims))
}

fn users_7() -> String {
    token(HS256, CLAIMS, SIGNATURE)
}

fn users_8() -> String {
    token(HS256, r#"{"sub":"8","exp":4102444800}"#, "Rgb5Bd4YQNxUrbJ9LwGpQDV5RB0cgJZ8-GHGnEU3oho")
}

fn by_query(token: &str) -> String {
    UPGRADE.replace("/ws", &format!("/ws?token={token}"))
}

fn by_field(value: &str) -> String {
    UPGRADE.replace("\r\nHost", &format!("\r\nAuthorization: {value}\r\nHost"))
}

async fn refused(gateway: &Gateway, request: &str, because: &str) {
    let mut wire = Wire::connect(gateway.address).await;
    wire.send(request.as_bytes()).await;
    let response = wire.response().await;
    assert_eq!(response.status, 401, "{request}: {response:?}");
    assert_eq!(response.header("WWW-Authenticate"), Some("Bearer"));
    assert!(response.body.contains(because), "{:?} does not say {because:?}", response.body);
    assert_eq!(wire.frame().await, None);
    drop(upgraded(gateway, &by_query(&users_7())).await);
}

async fn upgraded(gateway: &Gateway, request: &str) -> Wire {
    let mut wire = Wire::connect(gateway.address).await;
    wire.send(request.as_bytes()).await;
    let response = wire.response().await;
    assert_eq!(response.status, 101, "{request}: {response:?}");
    let (_, welcome) = wire.frame().await.unwrap();
    assert_eq!(welcome[..8], [0, 0, 0, 0, 3, 0, 0, 0]);
    wire
}

#[tokio::test]
async fn no_token_is_401() {
    let gateway = start().await;
    for request in [UPGRADE, &by_query("x").replace("token", "tokens"), &by_field("Basic dXNlcjpwYXNz")] {
        refused(&gateway, request, "a token is needed").await;
    }
    gateway.metric_is("gateway_handshakes_refused_total{reason=\"denied\"}", 3.0).await;
}

#[tokio::test]
async fn a_bad_token_is_401() {
    let gateway = start().await;
    refused(&gateway, &by_query(""), "not valid").await;
    for bad in ["x", "a.b", "a.b.c", "a.b.c.d", "\u{fc}"] {
        refused(&gateway, &by_field(&format!("Bearer {bad}")), "not valid").await;
        refused(&gateway, &by_query(bad), "not valid").await;
    }
    let others_secret = token(HS256, CLAIMS, "jcVadkBpSbNXUe_08SRzE2J0oWgcACityZWObybtgr8");
    let others_claims = token(HS256, r#"{"sub":"8","exp":4102444800}"#, SIGNATURE);
    let unsigned = token(HS256, CLAIMS, "");
    for forged in [others_secret, others_claims, unsigned] {
        refused(&gateway, &by_query(&forged), "its signature is wrong").await;
        refused(&gateway, &by_field(&format!("Bearer {forged}")), "its signature is wrong").await;
    }
    // The header field takes precedence over the query.
    let both = by_query(&users_7()).replace("\r\nHost", "\r\nAuthorization: Bearer x\r\nHost");
    refused(&gateway, &both, "not valid").await;
}

#[tokio::test]
async fn a_token_that_is_expired_or_has_no_expiry_or_is_not_valid_yet_is_401() {
    let gateway = start().await;
    let expired = token(HS256, r#"{"sub":"7","exp":1577836800}"#, "nYXrKMTeP3znzZ5HoRNPCAOW0G71sZg0-9yzfsv_Cno");
    refused(&gateway, &by_query(&expired), "it has expired").await;
    let endless = token(HS256, r#"{"sub":"7"}"#, "qzb243RjjaQkB64Dok3WzFfrPoEeYTWUTG-1_3c2rsc");
    refused(&gateway, &by_query(&endless), "exp").await;
    let claims = r#"{"sub":"7","nbf":4102444700,"exp":4102444800}"#;
    let early = token(HS256, claims, "NUlvXlfrj0jbjKaDg6RoWd9C70eevXnVE2XZvAMptQA");
    refused(&gateway, &by_query(&early), "it is not valid yet").await;
}

#[tokio::test]
async fn a_token_with_another_algorithm_is_401() {
    let gateway = start().await;
    // Each token is signed with the algorithm that its header names.
    let none = r#"{"alg":"none"}"#;
    refused(&gateway, &by_query(&token(none, CLAIMS, "")), "not valid").await;
    refused(&gateway, &by_query(&token(none, CLAIMS, SIGNATURE)), "not valid").await;
    let hs512 = "e-7jTURYziT8wthdaYefHSdE5QDP43mwIxEVQA45w9WDfjJWYL4WNU6wJj8yy3SpHjTHnrIYBdyA2SsJRj4b0g";
    refused(
        &gateway,
        &by_query(&token(r#"{"alg":"HS512","typ":"JWT"}"#, CLAIMS, hs512)),
        "its algorithm is not accepted",
    )
    .await;
    let hs384 = "gLkkX6bdGgLQvfGRltS3wbTHi1XpTtdlbK2jhQx7u3IZBrFBJnvUTDhgqMHC4GO0";
    refused(
        &gateway,
        &by_query(&token(r#"{"alg":"HS384","typ":"JWT"}"#, CLAIMS, hs384)),
        "its algorithm is not accepted",
    )
    .await;
}

#[tokio::test]
async fn a_token_whose_sub_is_no_user_id_is_401() {
    let gateway = start().await;
    let nobodies = [
        (r#"{"exp":4102444800}"#, "iFIiXKcF1zIN9ZiKXoxZr9UAN2l5lko918Ls-10qEPU", "sub"),
        (r#"{"sub":"0","exp":4102444800}"#, "UEyK9j0wpuKKKfE_zuaeixRidkMNpX-pLY8wCp4A_3w", "is no user id"),
        (r#"{"sub":"alice","exp":4102444800}"#, "Qh097q6jRpY0Vdk5E1LLI6EI0HTtwwzs2LsL52vPlpk", "is no user id"),
        (
            r#"{"sub":"9223372036854775808","exp":4102444800}"#,
            "s1tsU6etMh-fA0hJQ-XVYLrLXUM40vR2x2aIRyenL6c",
            "is no user id",
        ),
    ];
    for (claims, signature, because) in nobodies {
        refused(&gateway, &by_query(&token(HS256, claims, signature)), because).await;
    }
}

/// Asserts that the session belongs to user 7, and that requests for another user are refused.
async fn assert_bound_to_7(wire: &mut Wire) {
    wire.send(&frame(BINARY, &[&[0, 0, 0, 1, 1, 0, 0, 0], &chat_request("mmo", 8, "as another")[..]].concat())).await;
    let (_, refusal) = wire.frame().await.unwrap();
    assert_eq!(refusal[..8], [0, 0, 0, 1, 1, 1, 0, 6], "{refusal:?}");
    wire.send(&frame(BINARY, &[&[0, 0, 0, 2, 1, 0, 0, 0], &chat_request("mmo", 7, "as myself")[..]].concat())).await;
    let (_, push) = wire.frame().await.unwrap();
    assert_eq!(push[..8], [0, 0, 0, 1, 1, 0, 0, 0], "{push:?}");
    let response = ChatResponse::decode(&push[8..]).unwrap();
    assert_eq!((response.success, response.target_user_id), (true, 7));
}

#[tokio::test]
async fn a_valid_token_in_the_authorization_field_binds_the_session_to_its_user() {
    let gateway = start().await;
    for scheme in ["Bearer", "bearer"] {
        let mut wire = upgraded(&gateway, &by_field(&format!("{scheme} {}", users_7()))).await;
        assert_bound_to_7(&mut wire).await;
        wire.stream.set_zero_linger().unwrap();
        drop(wire);
        // The next session has to be the only one again, so that a delivery to its user arrives once.
        gateway.metric_is("gateway_sessions", 0.0).await;
    }
}

#[tokio::test]
async fn a_valid_token_in_the_query_binds_the_session_to_its_user() {
    let gateway = start().await;
    for request in
        [by_query(&users_7()), by_query(&format!("{}&v=2", users_7())), by_query(&users_7()).replace('?', "?v=2&")]
    {
        let wire = &mut upgraded(&gateway, &request).await;
        assert_bound_to_7(wire).await;
        wire.stream.set_zero_linger().unwrap();
    }
}

#[tokio::test]
async fn a_session_with_a_token_receives_before_it_ever_sent() {
    let gateway = start().await;
    let mut listener = upgraded(&gateway, &by_query(&users_7())).await;
    let mut sender = upgraded(&gateway, &by_query(&users_8())).await;
    let mut request = ChatRequest::decode(&chat_request("mmo", 8, "hello")[..]).unwrap();
    request.receiver_id = 7;
    sender.send(&frame(BINARY, &[&[0, 0, 0, 1, 1, 0, 0, 0], &request.encode_to_vec()[..]].concat())).await;
    let (_, push) = listener.frame().await.unwrap();
    assert_eq!(push[..8], [0, 0, 0, 1, 1, 0, 0, 0], "{push:?}");
    let broadcast = MessageBroadcast::decode(&push[8..]).unwrap();
    assert_eq!((broadcast.sender_id, broadcast.content.as_str(), broadcast.target_user_id), (8, "hello", 7));
}
