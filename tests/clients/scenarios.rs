//! What each client has to do.

use crate::agent::{Agent, Kind};
use gateway_tests::{Client, DEMO_CHAT, Gateway, Issuer, Redis, Relay, SECRET, Setup, probe};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::sleep;

/// The route of the plugin `probe`.
const ROUTE: u8 = 0x70;

/// The topic that the plugin `probe` subscribes to. A message is a list of commands.
const TOPIC: &str = "orders";

/// Returns a setup in which sessions resume, with the plugin `probe`.
fn resuming(setup: Setup) -> Setup {
    let settings = format!("settings: {{ probe: {{ config: {{ topics: [{TOPIC}] }} }} }}");
    let yaml = format!("{}\nresume: {{}}\nplugins: {{ directory: plugins, {settings} }}", setup.yaml);
    Setup { yaml, files: vec![("probe.wasm", probe())], ..setup }
}

/// Asserts that the session has got each push once and in order, and that each has this text.
fn assert_pushes(pushes: &[Value], texts: impl Iterator<Item = String>) {
    let received: Vec<_> = pushes.iter().map(|push| (push["number"].clone(), push["text"].clone())).collect();
    let sent: Vec<_> = (1..).zip(texts).map(|(number, text)| (json!(number), json!(text))).collect();
    assert_eq!(received, sent);
}

pub(crate) async fn two_sessions_chat(agent: &Agent) {
    let gateway = Gateway::start(Setup { plugins: vec!["chat", "system", DEMO_CHAT], ..Setup::default() }).await;
    for (session, user) in [("anna", 1), ("ben", 2)] {
        agent.connect(session, gateway.address, "").await;
        agent.does(session, "chat", json!({ "request": { "gameId": "mmo", "userId": user, "content": "hi" } })).await;
        agent.logged(session, "push", 1).await;
    }
    let meta = json!({ "sessionId": agent.id("anna").await, "extra": { "mood": "good" } });
    let request =
        json!({ "gameId": "mmo", "userId": 1, "receiverId": 2, "content": "grüße 🎲", "type": 1, "meta": meta });
    agent.does("anna", "chat", json!({ "request": request })).await;
    let heard = agent.logged("ben", "push", 2).await[1]["chat"].clone();
    let answer = agent.logged("anna", "push", 2).await[1]["chat"].clone();
    for (field, value) in [("kind", "broadcast"), ("senderName", "user 1"), ("content", "grüße 🎲")] {
        assert_eq!(heard[field], value, "{heard}");
    }
    assert_eq!((&heard["senderId"], &heard["type"], &heard["targetUserId"]), (&json!(1), &json!(1), &json!(2)));
    assert_eq!((&answer["kind"], &answer["success"]), (&json!("response"), &json!(true)), "{answer}");
    assert_eq!((&answer["base"]["gameId"], &answer["base"]["userId"]), (&json!("mmo"), &json!(1)));
    assert_eq!(answer["targetSessionId"], agent.id("anna").await);
    // The id is larger than the integers that a floating-point number has.
    let id: i64 = heard["messageId"].as_str().unwrap().parse().unwrap();
    assert!(id > 1 << 53 && answer["messageId"] == heard["messageId"], "{heard} {answer}");
    assert_eq!(heard["timestamp"], answer["timestamp"]);
    assert!(heard["timestamp"].as_u64().unwrap() > 1_700_000_000_000, "{heard}");
}

pub(crate) async fn a_refusal_says_why_and_the_session_goes_on(agent: &Agent) {
    let gateway = Gateway::start(Setup::default()).await;
    agent.connect("a", gateway.address, "").await;
    agent.does("a", "request", json!({ "route": 9, "text": "?" })).await;
    let refusal = agent.logged("a", "reply", 1).await.remove(0);
    assert_eq!((&refusal["error"], &refusal["status"]), (&json!("StatusError"), &json!(3)), "{refusal}");
    assert_eq!(refusal["text"], "no plugin serves route 0x09");
    let elsewhere = json!({ "request": { "gameId": "chess", "userId": 7, "content": "hi" } });
    let seq = agent.does("a", "chat", elsewhere).await["seq"].clone();
    let refusal = agent.logged("a", "refused", 1).await.remove(0);
    assert_eq!((&refusal["seq"], &refusal["status"]), (&seq, &json!(4)), "{refusal}");
    agent.does("a", "request", json!({ "route": 3, "text": "grüße" })).await;
    let reply = agent.logged("a", "reply", 2).await.remove(1);
    assert_eq!((&reply["text"], &reply["error"]), (&json!("grüße"), &Value::Null), "{reply}");
    agent.does("a", "close", json!({})).await;
    gateway.metric_is("gateway_disconnections_total{reason=\"closed\"}", 1.0).await;
    let refused = agent.tries("a", "send", json!({ "route": 3, "text": "" })).await;
    assert_eq!((&refused["error"], &refused["code"]), (&json!("ClosedError"), &json!(1000)), "{refused}");
}

pub(crate) async fn heartbeats_are_sent_and_answered(agent: &Agent) {
    let gateway = Gateway::start(Setup::default()).await;
    let url = format!("ws://{}/ws", gateway.address);
    agent.connect_with("a", json!({ "url": url, "heartbeat_ms": 2000 })).await;
    agent.logged("a", "welcome", 1).await;
    gateway.metric_is("gateway_messages_received_total{route=\"3\"}", 2.0).await;
    let ping = agent.does("a", "ping", json!({})).await["ms"].as_f64().unwrap();
    assert!((0.0..60_000.0).contains(&ping), "{ping}");
    assert_eq!(agent.log("a").await.len(), 1, "heartbeats are nothing that the application sees");
}

pub(crate) async fn a_session_that_is_cut_goes_on_and_everything_comes_once(agent: &Agent) {
    const ROUNDS: usize = 3;
    const PUSHES: usize = 40;
    let gateway = Gateway::start(resuming(Setup::default())).await;
    let relay = Relay::start(gateway.address).await;
    agent.connect("a", relay.address, "user=7").await;
    let id = agent.id("a").await;
    let mut other = Client::connect_to(gateway.address, "/ws?user=8").await;
    let text = |index: usize| format!("push-{index}");
    for round in 0..ROUNDS {
        for index in 0..PUSHES {
            if index == PUSHES / 2 {
                relay.cut();
            }
            if index % 8 == 0 {
                // Some of these find no connection, and some have no reply yet when it breaks.
                let request = json!({ "route": ROUTE, "text": format!("say {round}.{index}") });
                agent.does("a", "request", request).await;
            }
            let push = format!("deliver user:7 always {}", text(round * PUSHES + index));
            assert_eq!(other.request(ROUTE, push.as_bytes()).await.status, 0);
        }
        agent.logged("a", "resumed", round + 1).await;
    }
    let pushes = agent.logged("a", "push", ROUNDS * PUSHES).await;
    let replies = agent.logged("a", "reply", ROUNDS * PUSHES / 8).await;
    assert_pushes(&pushes, (0..ROUNDS * PUSHES).map(text));
    for reply in replies {
        assert_eq!(reply["to"].as_str().unwrap(), format!("say {}", reply["text"].as_str().unwrap()), "{reply}");
    }
    assert_eq!(agent.id("a").await, id);
    let log = agent.log("a").await;
    let unexpected =
        |entry: &&Value| ["newSession", "gap", "closed", "refused"].iter().any(|name| entry["event"] == *name);
    assert_eq!(log.iter().find(unexpected), None);
    gateway.metric_is("gateway_resumes_total{outcome=\"resumed\"}", ROUNDS as f64).await;
}

pub(crate) async fn a_connection_that_is_silent_is_given_up_and_the_session_goes_on(agent: &Agent) {
    let gateway = Gateway::start(resuming(Setup::default())).await;
    let relay = Relay::start(gateway.address).await;
    let url = format!("ws://{}/ws?user=7", relay.address);
    // The heartbeats of the next connection are rarer than a busy machine is slow.
    agent.connect_with("a", json!({ "url": url, "heartbeat_ms": 2000 })).await;
    agent.logged("a", "welcome", 1).await;
    relay.freeze();
    let mut other = Client::connect_to(gateway.address, "/ws?user=8").await;
    assert_eq!(other.request(ROUTE, b"deliver user:7 always x").await.status, 0);
    let why = agent.logged("a", "reconnecting", 1).await[0]["why"].clone();
    assert_eq!(why, "the gateway has not answered the heartbeats");
    agent.logged("a", "resumed", 1).await;
    assert_pushes(&agent.logged("a", "push", 1).await, ["x".to_owned()].into_iter());
}

pub(crate) async fn a_session_that_is_woken_up_finds_out_at_once_whether_its_connection_lives(agent: &Agent) {
    let gateway = Gateway::start(resuming(Setup::default())).await;
    let relay = Relay::start(gateway.address).await;
    // Without being woken up, the session would take more than 50 seconds to notice the silence.
    agent.connect("a", relay.address, "user=7").await;
    agent.does("a", "wake", json!({})).await;
    gateway.metric_is("gateway_messages_received_total{route=\"3\"}", 1.0).await;
    agent.does("a", "ping", json!({})).await;
    assert_eq!(agent.log("a").await.len(), 1, "a connection that lives is nothing that the application sees");
    relay.freeze();
    agent.does("a", "wake", json!({})).await;
    let why = agent.logged("a", "reconnecting", 1).await[0]["why"].clone();
    assert_eq!(why, "the gateway has not answered the check of the connection");
    agent.logged("a", "resumed", 1).await;
}

pub(crate) async fn a_gateway_that_stops_sends_the_session_to_another_one(agent: &Agent) {
    let redis = Redis::start().await;
    let second = Gateway::start(resuming(Setup::redis(&redis))).await;
    let reconnect = format!("reconnect: {{ url: \"ws://{}/ws\" }}", second.address);
    let first = Setup { server: reconnect, ..Setup::redis(&redis) };
    let mut first = Gateway::start(resuming(first)).await;
    redis.subscribers_are(TOPIC, 2).await;
    agent.connect("a", first.address, "user=7").await;
    let id = agent.id("a").await;
    let tell = async |text: &str| redis.publish(TOPIC, format!("deliver user:7 always {text}").as_bytes()).await;
    tell("before").await;
    agent.logged("a", "push", 1).await;
    first.signal("TERM").await;
    let why = agent.logged("a", "reconnecting", 1).await[0]["why"].clone();
    assert_eq!(why, "the gateway stops, and has asked this client to reconnect");
    agent.logged("a", "resumed", 1).await;
    assert_eq!(agent.id("a").await, id);
    tell("after").await;
    assert_pushes(&agent.logged("a", "push", 2).await, ["before", "after"].map(str::to_owned).into_iter());
    assert_eq!(first.exit().await.code(), Some(0));
    second.metric_is("gateway_resumes_total{outcome=\"handed_over\"}", 1.0).await;
}

pub(crate) async fn a_session_that_is_replaced_does_not_come_back(agent: &Agent) {
    let yaml = "games: [{ id: mmo }]\nresume: {}\nlimits: { sessions_per_user: 1 }";
    let gateway = Gateway::start(Setup { yaml: yaml.to_owned(), ..Setup::default() }).await;
    agent.connect("a", gateway.address, "").await;
    agent.does("a", "chat", json!({ "request": { "gameId": "mmo", "userId": 7, "content": "bind" } })).await;
    agent.logged("a", "refused", 1).await;
    let _newer = gateway.client_of(7).await;
    let closed = agent.logged("a", "closed", 1).await.remove(0);
    assert_eq!(closed["code"], 4009, "{closed}");
    // After any other code the client would try again after at most half a second.
    sleep(Duration::from_secs(1)).await;
    gateway.metric_is("gateway_connections_total", 2.0).await;
    assert_eq!(agent.log("a").await.last().unwrap()["event"], "closed");
}

/// Returns a setup in which clients need a token.
fn with_tokens() -> Setup {
    let yaml = format!("games: [{{ id: mmo }}]\nresume: {{}}\nauth: {{ jwt_secret: {SECRET:?} }}");
    Setup { yaml, server: "subprotocols: [game.v1]".to_owned(), ..Setup::default() }
}

/// Returns a token of the user that is valid for this time.
async fn token(issuer: &mut Issuer, user: &str, valid: Duration) -> String {
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + valid;
    issuer.sign_with_secret("HS256", &json!({ "sub": user, "exp": expires.as_secs() })).await
}

pub(crate) async fn a_token_goes_along_and_can_be_replaced(agent: &Agent) {
    const LONG: Duration = Duration::from_secs(3600);
    let gateway = Gateway::start(with_tokens()).await;
    let mut issuer = Issuer::start().await;
    let url = format!("ws://{}/ws", gateway.address);
    let (users_7, users_8) = (token(&mut issuer, "7", LONG).await, token(&mut issuer, "8", LONG).await);
    agent.connect_with("by query", json!({ "url": url, "token": users_7 })).await;
    agent.connect_with("by protocol", json!({ "url": url, "token": users_7, "protocols": ["game.v1"] })).await;
    for session in ["by query", "by protocol"] {
        agent.logged(session, "welcome", 1).await;
        // The session is bound to the user of the token, so another user's request is refused.
        agent.does(session, "chat", json!({ "request": { "gameId": "mmo", "userId": 8, "content": "hi" } })).await;
        assert_eq!(agent.logged(session, "refused", 1).await[0]["status"], 6);
        agent.does(session, "refresh", json!({ "token": users_7 })).await;
        let refused = agent.tries(session, "refresh", json!({ "token": users_8 })).await;
        assert_eq!((&refused["error"], &refused["status"]), (&json!("StatusError"), &json!(6)), "{refused}");
    }
    agent.connect_with("none", json!({ "url": url })).await;
    let closed = agent.logged("none", "closed", 1).await.remove(0);
    // Only this WebSocket tells the client what the gateway has answered.
    let why = match agent.kind {
        Kind::NodeWithWs => "the gateway refused the upgrade with HTTP 401",
        Kind::Node | Kind::Chromium | Kind::Godot | Kind::Mono => "the gateway cannot be reached",
    };
    assert!(closed["message"].as_str().unwrap().starts_with(why), "{closed}");
}

pub(crate) async fn a_token_that_expires_is_renewed(agent: &Agent) {
    let gateway = Gateway::start(with_tokens()).await;
    let mut issuer = Issuer::start().await;
    let mut tokens = Vec::new();
    for seconds in [8, 3600] {
        tokens.push(token(&mut issuer, "7", Duration::from_secs(seconds)).await);
    }
    let url = format!("ws://{}/ws", gateway.address);
    agent.connect_with("a", json!({ "url": url, "tokens": tokens })).await;
    agent.connect_with("lazy", json!({ "url": url, "token": tokens[0] })).await;
    agent.logged("a", "tokenExpires", 1).await;
    // A session that has no newer token ends when the gateway ends it.
    assert_eq!(agent.logged("lazy", "closed", 1).await[0]["code"], 4001);
    agent.does("a", "ping", json!({})).await;
    let log = agent.log("a").await;
    let events: Vec<_> = log.iter().map(|entry| entry["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["welcome", "tokenExpires"], "{log:?}");
}
