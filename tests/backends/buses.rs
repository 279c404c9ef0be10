//! Tests of several gateways on one Redis, of the ways to address a Redis, and of the embedded bus.

use super::{BROADCAST, CHAT, DELIVERED, NOT_HERE, REQUESTS, assert_pushed, broadcast, connected, response};
use chat_proto::{
    chat::{ChatRequest, ChatResponse, MessageBroadcast},
    common::{MessageBase, MessageMeta},
};
use gateway_tests::{Client, DEMO_CHAT, Gateway, Redis, Setup, chat_request};
use prost::Message;

#[tokio::test]
async fn two_gateways_on_one_redis_each_deliver_to_their_own_sessions() {
    let redis = Redis::start().await;
    let (one, two) = (connected(Setup::redis(&redis)).await, connected(Setup::redis(&redis)).await);
    redis.subscribers_are(BROADCAST, 2).await;
    // User 7 has a session on both gateways, user 1 on the first only, and user 2 on the second only.
    let (mut one_7, mut one_1) = (one.client_of(7).await, one.client_of(1).await);
    let (mut two_7, mut two_2) = (two.client_of(7).await, two.client_of(2).await);
    let to_session = response(1, &two_7.welcome.session_id, 3);
    for payload in [&response(7, "", 1), &broadcast(1, 2), &to_session, &broadcast(2, 4)] {
        assert_eq!(redis.publish(BROADCAST, payload).await, 2);
    }
    assert_pushed(&mut one_7, 1, &response(7, "", 1)).await;
    assert_pushed(&mut two_7, 1, &response(7, "", 1)).await;
    assert_pushed(&mut one_1, 1, &broadcast(1, 2)).await;
    assert_pushed(&mut two_7, 2, &to_session).await;
    assert_pushed(&mut two_2, 1, &broadcast(2, 4)).await;
    for (gateway, delivered, not_here) in [(&one, 2.0, 2.0), (&two, 3.0, 1.0)] {
        gateway.metric_is(DELIVERED, delivered).await;
        gateway.metric_is(NOT_HERE, not_here).await;
    }
    for client in [&mut one_7, &mut one_1, &mut two_7, &mut two_2] {
        client.assert_alive().await;
    }
    // Each gateway publishes on its own. At this point, all requests that bound the sessions are published.
    for gateway in [&one, &two] {
        gateway.metric_is("gateway_bus_published_total", 2.0).await;
    }
    let mut heard = redis.subscribe(REQUESTS).await;
    for (client, user) in [(&mut one_7, 7), (&mut two_2, 2)] {
        let request = chat_request("mmo", user, "hi");
        client.send(CHAT, &request).await;
        assert_eq!(heard.next().await, request);
    }
}

const PASSWORD: &str = "a-secret-of-redis";

/// Returns the setup of a gateway with this `redis` section.
fn on_redis(section: &str) -> Setup {
    Setup { yaml: format!("games: [{{ id: mmo }}]\nredis: {{ {section} }}"), ..Setup::default() }
}

/// Sends a request to the backend and a delivery back, and asserts that the log does not contain the password.
async fn carries_both_ways(redis: &Redis, section: &str) {
    let mut heard = redis.subscribe(REQUESTS).await;
    let gateway = connected(on_redis(section)).await;
    let mut client = gateway.client().await;
    client.send(CHAT, &chat_request("mmo", 7, section)).await;
    assert_eq!(heard.next().await, chat_request("mmo", 7, section));
    assert_eq!(redis.publish(BROADCAST, &broadcast(7, 1)).await, 1);
    assert_pushed(&mut client, 1, &broadcast(7, 1)).await;
    assert_eq!(gateway.get("/readyz").await.0, 200);
    gateway.logged("bus connected").await;
    for line in gateway.log_lines() {
        assert!(!line.to_string().contains(PASSWORD), "{line}");
    }
}

#[tokio::test]
async fn the_address_of_redis_may_be_a_url() {
    let redis = Redis::start().await;
    carries_both_ways(&redis, &format!("addr: \"redis://127.0.0.1:{}\"", redis.port)).await;
    carries_both_ways(&redis, &format!("addr: \"redis://localhost:{}/0\"", redis.port)).await;
}

#[tokio::test]
async fn a_redis_with_a_password_serves_a_gateway_that_knows_it() {
    let redis = Redis::start_with_password(PASSWORD).await;
    let port = redis.port;
    carries_both_ways(&redis, &format!("addr: \"127.0.0.1:{port}\", password: \"{PASSWORD}\"")).await;
    carries_both_ways(&redis, &format!("addr: \"redis://:{PASSWORD}@127.0.0.1:{port}\"")).await;
    // The key `password` takes precedence over the URL.
    carries_both_ways(&redis, &format!("addr: \"redis://:wrong@127.0.0.1:{port}\", password: \"{PASSWORD}\"")).await;
}

/// Starts a gateway that Redis does not authenticate. Asserts that the log and the readiness report say so, and that
/// clients get status 5.
async fn is_not_let_in(redis: &Redis, password: &str, because: &str) {
    let gateway = Gateway::start(on_redis(&format!("addr: \"127.0.0.1:{}\"{password}", redis.port))).await;
    let line = gateway.logged("bus not connected").await;
    assert_eq!(line["level"], "WARN", "{line}");
    assert!(line["fields"]["error"].to_string().to_lowercase().contains(because), "{line}");
    let (status, report) = gateway.get("/readyz").await;
    assert_eq!(status, 503, "{report}");
    assert!(report.contains("redis") && report.to_lowercase().contains(because), "{report}");
    let mut client = gateway.client().await;
    assert_eq!(client.request(CHAT, &chat_request("mmo", 7, "hi")).await.status, 5);
    client.assert_alive().await;
    assert_eq!(gateway.metric("gateway_bus_connected").await, 0.0);
}

#[tokio::test]
async fn without_the_password_of_redis_the_log_says_that_authentication_is_missing() {
    let redis = Redis::start_with_password(PASSWORD).await;
    is_not_let_in(&redis, "", "auth").await;
}

#[tokio::test]
async fn a_redis_that_requires_a_password_is_connected_in_neither_direction() {
    let redis = Redis::start_with_password(PASSWORD).await;
    let gateway = Gateway::start(on_redis(&format!("addr: \"127.0.0.1:{}\"", redis.port))).await;
    // Once a request is refused, the publishing connection has been tried as well.
    let mut client = gateway.client().await;
    assert_eq!(client.request(CHAT, &chat_request("mmo", 7, "hi")).await.status, 5);
    gateway.logged("publish refused").await;
    let lines = gateway.log_lines();
    assert!(!lines.iter().any(|line| line["fields"]["message"] == "bus connected"), "{lines:#?}");
}

#[tokio::test]
async fn with_a_wrong_password_of_redis_the_log_says_so() {
    let redis = Redis::start_with_password(PASSWORD).await;
    is_not_let_in(&redis, ", password: wrong", "password").await;
}

async fn response_to(client: &mut Client, seq: u32) -> ChatResponse {
    let pushed = client.receive().await;
    assert_eq!((pushed.seq, pushed.route, pushed.flags, pushed.status), (seq, CHAT, 0, 0));
    ChatResponse::decode(pushed.payload).expect("a ChatResponse")
}

#[tokio::test]
async fn the_embedded_bus_carries_the_whole_loop_with_a_backend_that_is_a_plugin() {
    let gateway = connected(Setup { plugins: vec!["chat", "system", DEMO_CHAT], ..Setup::default() }).await;
    assert_eq!(gateway.get("/readyz").await.0, 200);
    let (mut sender, mut beside, mut receiver) =
        (gateway.client().await, gateway.client().await, gateway.client().await);
    let base = |user_id| Some(MessageBase { game_id: "mmo".to_owned(), user_id, timestamp: 5 });
    // Each user binds its session and receives the response.
    for (client, user, seq) in [(&mut sender, 1, 1), (&mut receiver, 2, 1), (&mut beside, 1, 1)] {
        client.send(CHAT, &ChatRequest { base: base(user), ..Default::default() }.encode_to_vec()).await;
        let answer = response_to(client, seq).await;
        assert_eq!((answer.base, answer.success, answer.target_user_id), (base(user), true, user));
    }
    // The third request was user 1's as well, and user 1 has two sessions.
    assert_eq!(response_to(&mut sender, 2).await.target_user_id, 1);
    // A response to a session goes to the sender alone. The receiver gets the message.
    let meta = Some(MessageMeta { session_id: sender.welcome.session_id.clone(), ..Default::default() });
    let content = "hello".to_owned();
    let request = ChatRequest { base: base(1), receiver_id: 2, content, r#type: 1, meta, ..Default::default() };
    sender.send(CHAT, &request.encode_to_vec()).await;
    let answer = response_to(&mut sender, 3).await;
    assert_eq!((answer.success, &answer.target_session_id), (true, &sender.welcome.session_id));
    let pushed = receiver.receive().await;
    assert_eq!((pushed.seq, pushed.route, pushed.flags, pushed.status), (2, CHAT, 0, 0));
    let message = MessageBroadcast::decode(pushed.payload).unwrap();
    assert_eq!((message.sender_id, message.target_user_id, &*message.content), (1, 2, "hello"));
    assert_eq!((message.message_id, message.r#type), (answer.message_id, 1));
    for client in [&mut sender, &mut beside, &mut receiver] {
        client.assert_alive().await;
    }
    // Four requests, four responses, one broadcast.
    gateway.metric_is("gateway_bus_published_total", 9.0).await;
}
