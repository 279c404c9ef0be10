//! Tests of the sample backends in deploy/backends. Each serves two users of a real gateway, over a real Redis that
//! fails in between. `make backends` builds them.

use crate::{CHAT, REQUESTS, connected};
use chat_proto::{
    chat::{ChatRequest, ChatResponse, MessageBroadcast},
    common::{MessageBase, MessageMeta},
};
use gateway_tests::{Client, Redis, Setup, has, in_time, root};
use prost::Message;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// Starts a backend, if it was built.
fn start(language: &str, program: &[&str], redis: &Redis) -> Option<Child> {
    let folder = root().join("target/backends").join(language);
    let file = folder.join(program[program.len() - 1]);
    let missing = format!("{} does not exist, and `make backend-{language}` says why", file.display());
    if !has(&format!("the backend in {language}"), (!file.exists()).then_some(&missing)) {
        return None;
    }
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).current_dir(folder).env("REDIS_URL", format!("redis://127.0.0.1:{}", redis.port));
    Some(command.stdout(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).spawn().unwrap())
}

/// Lets a user send a message to another one, and checks what both receive.
async fn chat(from: &mut Client, sender: i32, to: &mut Client, receiver: i32, content: &str) {
    let request = ChatRequest {
        base: Some(MessageBase { game_id: "mmo".to_owned(), user_id: sender, timestamp: 5 }),
        receiver_id: receiver,
        channel_id: 3,
        r#type: 2,
        content: content.to_owned(),
        meta: Some(MessageMeta {
            session_id: from.welcome.session_id.clone(),
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
            span_id: "00f067aa0ba902b7".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    from.send(CHAT, &request.encode_to_vec()).await;
    let answer = from.receive().await;
    assert_eq!((answer.route, answer.status), (CHAT, 0), "{}", answer.text());
    let answer = ChatResponse::decode(answer.payload).unwrap();
    let ChatResponse { message_id, timestamp, .. } = answer;
    // 2020 and 2100, in the units of the fields: a sample in the wrong unit is off by a factor of 1000.
    assert!((1_577_836_800_000..4_102_444_800_000).contains(&timestamp), "{timestamp}");
    let expected = ChatResponse {
        base: request.base,
        success: true,
        error_message: String::new(),
        message_id,
        timestamp,
        target_user_id: sender,
        target_session_id: from.welcome.session_id.clone(),
        meta: request.meta.clone(),
    };
    assert_eq!(answer, expected);
    let message = MessageBroadcast::decode(to.receive().await.payload).unwrap();
    let expected = MessageBroadcast {
        message_id,
        sender_id: sender,
        sender_name: format!("user {sender}"),
        channel_id: 3,
        content: content.to_owned(),
        timestamp,
        r#type: 2,
        target_user_id: receiver,
        meta: request.meta,
    };
    assert_eq!(message, expected);
}

/// Asserts that two users chat through this backend, also after junk and after an outage of Redis, and that the backend
/// ends with 0 after SIGTERM. The last word of `program` is the file that `make backends` builds.
async fn assert_serves(language: &str, program: &[&str]) {
    let mut redis = Redis::start().await;
    let Some(mut backend) = start(language, program, &redis) else { return };
    let gateway = connected(Setup::redis(&redis)).await;
    redis.subscribers_are(REQUESTS, 1).await;
    let (mut ann, mut bob) = (gateway.client().await, gateway.client().await);
    // The first request of a session binds it to its user.
    for (client, user) in [(&mut ann, 1), (&mut bob, 2)] {
        client.send(CHAT, &gateway_tests::chat_request("mmo", user, "hello")).await;
        let answer = ChatResponse::decode(client.receive().await.payload).unwrap();
        assert!(answer.success && answer.target_user_id == user, "{answer:?}");
    }
    chat(&mut ann, 1, &mut bob, 2, "hello, Bob").await;
    redis.publish(REQUESTS, b"\xff\xff no request").await;
    chat(&mut bob, 2, &mut ann, 1, "hello, Ann").await;

    redis.kill().await;
    gateway.metric_is("gateway_bus_connected", 0.0).await;
    redis.restart().await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    redis.subscribers_are(REQUESTS, 1).await;
    for user in [1, 2] {
        redis.subscribers_are(&format!("broadcast:user:{user}"), 1).await;
    }
    chat(&mut ann, 1, &mut bob, 2, "hello again").await;

    let pid = backend.id().unwrap().to_string();
    assert!(Command::new("kill").arg(pid).status().await.unwrap().success());
    let status = in_time("the end of the backend", backend.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0), "{language}");
}

#[tokio::test]
async fn the_sample_backend_in_python_serves_two_users_and_survives_an_outage_of_redis() {
    assert_serves("python", &["venv/bin/python", "backend.py"]).await;
}

#[tokio::test]
async fn the_sample_backend_in_node_serves_two_users_and_survives_an_outage_of_redis() {
    assert_serves("node", &["node", "backend.mjs"]).await;
}

#[tokio::test]
async fn the_sample_backend_in_go_serves_two_users_and_survives_an_outage_of_redis() {
    assert_serves("go", &["./backend"]).await;
}
