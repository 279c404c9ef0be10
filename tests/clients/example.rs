//! Runs the example of the C# client's README, which is also a sample in its package.

use crate::agent::{csharp, csharp_is_missing};
use chat_proto::{
    chat::{ChatRequest, MessageBroadcast},
    common::MessageBase,
};
use gateway_tests::{Client, DEMO_CHAT, Gateway, Setup, has, in_time};
use prost::Message;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Lets user 2 say something to this user.
async fn say(ben: &mut Client, receiver_id: i32, content: &str) {
    let base = Some(MessageBase { game_id: "mmo".into(), user_id: 2, timestamp: 0 });
    let request = ChatRequest { base, receiver_id, content: content.into(), ..Default::default() };
    ben.send(1, &request.encode_to_vec()).await;
}

#[tokio::test]
async fn the_example_of_the_csharp_client_chats() {
    if !has("the C# client", csharp_is_missing().as_deref()) {
        return;
    }
    let gateway = Gateway::start(Setup { plugins: vec!["chat", DEMO_CHAT], ..Setup::default() }).await;
    let mut ben = gateway.client().await;
    // The first request binds the session to its user, and its answer says that this is done.
    say(&mut ben, 0, "hi").await;
    ben.receive().await;
    let mut command = csharp();
    command.args(["example", &format!("ws://{}/ws", gateway.address)]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut example = command.spawn().unwrap();
    let mut lines = BufReader::new(example.stdout.take().unwrap()).lines();
    let heard = MessageBroadcast::decode(ben.receive().await.payload).unwrap();
    assert_eq!((heard.sender_id, heard.content.as_str()), (1, "hello"));
    say(&mut ben, 1, "grüße").await;
    let line = in_time("the line of the example", lines.next_line()).await.unwrap();
    assert_eq!(line.as_deref(), Some("user 2: grüße"));
    drop(example.stdin.take());
    let line = in_time("the last line of the example", lines.next_line()).await.unwrap();
    assert_eq!(line.as_deref(), Some("the application has closed the session"));
    assert!(in_time("the end of the example", example.wait()).await.unwrap().success());
}
