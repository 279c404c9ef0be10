//! Tests of clients that may not resume a session, and of what they say about it.

use crate::{Player, handovers, not_resumed, resumes, sessions_are, setup, start};
use gateway_proto::{ClientControl, Refresh, client_control::Request};
use gateway_tests::{Client, Gateway, Issuer, KeyServer, Redis, SECRET, Setup, eventually};
use prost::Message;
use serde_json::json;
use tokio::task::JoinSet;

/// The number of clients that want the same session at the same moment.
const RIVALS: usize = 1000;

async fn connect(gateway: &Gateway, query: &str) -> Client {
    Client::connect_to(gateway.address, &format!("/ws?{query}")).await
}

/// Starts a gateway that requires the tokens of an issuer.
async fn with_tokens() -> Gateway {
    let yaml = format!("resume: {{}}\nauth: {{ jwt_secret: {SECRET:?} }}\nplugins: {{ directory: plugins }}");
    Gateway::start(Setup { yaml, ..setup("") }).await
}

/// Returns a token of the user that is valid until then, in seconds since 1970.
async fn token(issuer: &mut Issuer, user: u32, until: u64) -> String {
    issuer.sign_with_secret("HS256", &json!({ "sub": user.to_string(), "exp": until })).await
}

#[tokio::test]
async fn a_token_that_was_used_or_made_up_leads_to_a_new_session() {
    let gateway = start("").await;
    let mut player = Player::begin(&gateway, 7).await;
    let (used, id) = (player.welcome().resume_token.clone(), player.welcome().session_id.clone());
    player.return_after_break(&gateway).await;
    assert_ne!(player.welcome().resume_token, used);
    let plain_id = id.replace('-', "");
    let made_up = [used.clone(), format!("{plain_id}{}", "0".repeat(32)), "x".to_owned(), String::new(), id, plain_id];
    for (count, token) in (1..).zip(&made_up) {
        let client = connect(&gateway, &format!("resume={token}&seen=0")).await;
        assert!(!client.welcome.resumed, "{token}");
        assert_ne!(client.welcome.session_id, player.welcome().session_id);
        gateway.metric_is(&resumes("unknown"), f64::from(count)).await;
    }
    // The session goes on all the same.
    player.client.assert_alive().await;
    player.return_after_break(&gateway).await;
    assert!(player.welcome().resumed);
}

#[tokio::test]
async fn a_client_that_cannot_say_what_it_has_seen_gets_a_new_session() {
    let gateway = start("messages: 4").await;
    let mut other = Player::begin(&gateway, 8).await;
    let wrong =
        ["", "&seen=", "&seen=11", "&seen=5", "&seen=-1", "&seen=abc", "&seen=4294967296", "&seen=10&replies=1"];
    for (count, seen) in (1..).zip(wrong) {
        let mut player = Player::begin(&gateway, 7).await;
        for seq in 1..=10 {
            other.tell(7, &[&seq.to_string()]).await;
            player.gets(seq, &seq.to_string()).await;
        }
        player.leave(&gateway).await;
        let mut client = connect(&gateway, &format!("user=7&resume={}{seen}", player.welcome().resume_token)).await;
        assert!(!client.welcome.resumed, "{seen:?}");
        assert_ne!(client.welcome.session_id, player.welcome().session_id);
        gateway.metric_is(&resumes("missed"), f64::from(count)).await;
        // The old session has ended, and the numbers begin anew.
        sessions_are(&gateway, 2.0).await;
        other.tell(7, &["new"]).await;
        assert_eq!(client.receive_any().await.seq, 1);
        client.socket.close(None).await.unwrap();
        sessions_are(&gateway, 1.0).await;
    }
}

#[tokio::test]
async fn a_client_that_has_missed_too_much_gets_a_new_session_although_its_old_connection_lives() {
    let gateway = start("messages: 4").await;
    let (mut player, mut other) = (Player::begin(&gateway, 7).await, Player::begin(&gateway, 8).await);
    for seq in 1..=10 {
        other.tell(7, &[&seq.to_string()]).await;
        player.gets(seq, &seq.to_string()).await;
    }
    let client = connect(&gateway, &format!("user=7&resume={}&seen=0", player.welcome().resume_token)).await;
    assert!(!client.welcome.resumed);
    assert_eq!(player.client.closed().await.map(|close| u16::from(close.code)), Some(4010));
    let disconnected = "gateway_disconnections_total{reason=\"missed\"}".to_owned();
    for counted in [resumes("missed"), not_resumed("missed"), disconnected] {
        gateway.metric_is(&counted, 1.0).await;
    }
    sessions_are(&gateway, 2.0).await;
}

#[tokio::test]
async fn of_a_thousand_clients_with_the_same_token_one_gets_the_session() {
    let gateway = start("").await;
    let (mut player, mut other) = (Player::begin(&gateway, 7).await, Player::begin(&gateway, 8).await);
    other.tell(7, &["a", "b"]).await;
    player.gets(1, "a").await;
    player.leave(&gateway).await;
    let (path, address) = (player.path(), gateway.address);
    let mut rivals = JoinSet::new();
    for _ in 0..RIVALS {
        let path = path.clone();
        rivals.spawn(async move { Client::connect_to(address, &path).await });
    }
    let mut clients = rivals.join_all().await;
    let winners: Vec<_> = clients.extract_if(.., |client| client.welcome.resumed).collect();
    let [mut winner] = <[Client; 1]>::try_from(winners).ok().expect("one winner");
    assert_eq!(winner.welcome.session_id, player.welcome().session_id);
    assert_eq!(winner.receive_any().await.text(), "b");
    winner.assert_alive().await;
    gateway.metric_is(&resumes("resumed"), 1.0).await;
    gateway.metric_is(&resumes("unknown"), (RIVALS - 1) as f64).await;
    gateway.metric_is("gateway_sessions", (RIVALS + 1) as f64).await;
}

#[tokio::test]
async fn the_session_of_another_user_is_neither_resumed_nor_ended() {
    let gateway = with_tokens().await;
    let mut issuer = Issuer::start().await;
    let [mine, theirs] = [token(&mut issuer, 7, 4_000_000_000).await, token(&mut issuer, 8, 4_000_000_000).await];
    let first = connect(&gateway, &format!("token={mine}")).await;
    let resume = format!("resume={}&seen=0", first.welcome.resume_token);
    let thief = connect(&gateway, &format!("token={theirs}&{resume}")).await;
    assert!(!thief.welcome.resumed);
    gateway.metric_is(&resumes("another_user"), 1.0).await;
    let again = connect(&gateway, &format!("{resume}&token={mine}")).await;
    assert!(again.welcome.resumed);
    assert_eq!(again.welcome.session_id, first.welcome.session_id);
}

#[tokio::test]
async fn a_client_without_a_token_comes_back_to_the_user_that_a_plugin_gave_it() {
    let redis = Redis::start().await;
    let mut gateways = Vec::new();
    for _ in 0..2 {
        let setup = handovers::setup(&redis, "");
        let yaml = format!("auth: {{ jwt_secret: {SECRET:?}, required: false }}\n{}", setup.yaml);
        gateways.push(Gateway::start(Setup { yaml, ..setup }).await);
    }
    redis.subscribers_are(handovers::TOPIC, 2).await;
    let mut player = Player::begin(&gateways[0], 7).await;
    let id = player.welcome().session_id.clone();
    for (gateway, outcome) in [(&gateways[0], "resumed"), (&gateways[1], "handed_over")] {
        drop(player.come_back(gateway).await);
        assert_eq!((player.welcome().resumed, &player.welcome().session_id), (true, &id), "{outcome}");
        assert_eq!(player.ask("say $user").await, "7");
        gateway.metric_is(&resumes(outcome), 1.0).await;
    }
    // A client with the token of another user does not.
    let mut issuer = Issuer::start().await;
    let theirs = token(&mut issuer, 8, 4_000_000_000).await;
    let path = format!("{}&token={theirs}", player.path());
    assert!(!Client::connect_to(gateways[1].address, &path).await.welcome.resumed);
    gateways[1].metric_is(&resumes("another_user"), 1.0).await;
}

#[tokio::test]
async fn a_refresh_whose_connection_ends_is_answered_over_the_next_one() {
    let mut issuer = Issuer::start().await;
    let keys = json!({ "keys": [issuer.key("a", "ed25519").await] });
    let server = KeyServer::start(&keys.to_string()).await;
    let auth = format!("auth: {{ jwks_url: \"{}\" }}", server.url());
    let yaml = format!("resume: {{}}\n{auth}\nplugins: {{ directory: plugins }}");
    let gateway = Gateway::start(Setup { yaml, ..setup("") }).await;
    let claims = json!({ "sub": "7", "exp": 4_000_000_000_u64 });
    let token = issuer.sign("EdDSA", "a", &claims).await;
    let unknown = issuer.sign_with("EdDSA", "a", json!({ "kid": "b" }), &claims).await;
    let client = connect(&gateway, &format!("token={token}")).await;
    let mut player = Player { client, seen: 0, replies: 0 };
    // The gateway asks for the unknown key, and gets no answer.
    server.fall_silent();
    let refresh = ClientControl { request: Some(Request::Refresh(Refresh { token: unknown })) };
    let seq = player.client.send(0, &refresh.encode_to_vec()).await;
    eventually("a request for the key", || async { (server.requests().len() == 2).then_some(()) }).await;
    let path = format!("{}&token={token}", player.path());
    player.client = Client::connect_to(gateway.address, &path).await;
    assert_eq!((player.welcome().resumed, player.welcome().packets_received), (true, 1));
    let reply = player.receive().await;
    assert_eq!((reply.route, reply.seq, reply.status), (0, seq, 5), "{reply:?}");
    assert_eq!(reply.text(), "the connection ended before the token was checked: try again");
}

#[tokio::test]
async fn a_token_that_is_not_valid_any_more_resumes_nothing() {
    let gateway = with_tokens().await;
    let mut issuer = Issuer::start().await;
    let [old, expired, new] = [
        token(&mut issuer, 7, 4_000_000_000).await,
        token(&mut issuer, 7, 1).await,
        token(&mut issuer, 7, 4_000_000_001).await,
    ];
    let first = connect(&gateway, &format!("token={old}")).await;
    let resume = format!("resume={}&seen=0", first.welcome.resume_token);
    for refused in [format!("{resume}&token={expired}"), resume.clone()] {
        let error = Client::handshake(gateway.address, &format!("/ws?{refused}")).await.unwrap_err();
        assert!(error.to_string().contains("401"), "{error}");
    }
    let again = connect(&gateway, &format!("{resume}&token={new}")).await;
    assert!(again.welcome.resumed, "the refused clients have not used the token up");
}
