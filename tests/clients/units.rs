//! Runs the tests of the clients that need no gateway, such as the cases of `client/vectors`.

use crate::agent::{csharp, csharp_is_missing, godot, typescript_is_missing};
use chat_proto::{
    chat::{ChatRequest, ChatResponse, MessageBroadcast},
    common::{MessageBase, MessageMeta},
};
use gateway_proto::{ClientControl, Control, Gap, Reconnect, Refresh, TokenExpires, Welcome};
use gateway_proto::{client_control::Request, control::Event};
use gateway_tests::{has, in_time, missing_program, root};
use prost::Message;
use std::{collections::BTreeMap, fmt::Write, fs};
use tokio::process::Command;

#[tokio::test]
async fn the_typescript_client_passes_its_tests() {
    let folder = root().join("target/typescript/test");
    if !has("the TypeScript client", typescript_is_missing().as_deref()) {
        return;
    }
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let tests: Vec<_> = files.filter(|file| file.to_string_lossy().ends_with(".test.js")).collect();
    let mut command = Command::new("node");
    command.args(["--test", "--test-reporter=tap"]).args(&tests).current_dir(root()).kill_on_drop(true);
    let output = in_time("the end of the tests", command.output()).await.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}");
    let passed = printed.lines().find_map(|line| line.strip_prefix("# pass ")?.parse::<u32>().ok());
    assert!(tests.len() >= 3 && passed.unwrap() > 86, "{printed}");
}

#[tokio::test]
async fn the_godot_client_passes_its_tests() {
    if !has("the Godot client", missing_program(&["godot3-server"]).as_deref()) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let output = in_time("the end of the tests", godot("run.gd", &home).output()).await.unwrap();
    let [printed, errors] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    // An error of a script does not end Godot, and Godot complains about other things as well.
    assert!(output.status.success() && !errors.contains("SCRIPT ERROR"), "{printed}{errors}");
    let passed = printed.lines().find_map(|line| line.strip_prefix("passed: ")?.parse::<u32>().ok());
    assert!(passed.unwrap() > 86, "{printed}{errors}");
}

#[tokio::test]
async fn the_csharp_client_passes_its_tests() {
    if !has("the C# client", csharp_is_missing().as_deref()) {
        return;
    }
    let output = in_time("the end of the tests", csharp().output()).await.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}");
    let passed = printed.lines().find_map(|line| line.strip_prefix("passed: ")?.parse::<u32>().ok());
    assert!(passed.unwrap() > 86, "{printed}");
}

fn control(event: Event) -> Vec<u8> {
    Control { event: Some(event) }.encode_to_vec()
}

fn base(timestamp: i64) -> Option<MessageBase> {
    Some(MessageBase { game_id: "mmo".into(), user_id: 7, timestamp })
}

/// Returns the messages of `client/vectors/messages.json`, each as the library of the gateway encodes it.
fn messages() -> [(&'static str, Vec<u8>); 18] {
    let welcome = Welcome {
        session_id: "0b6d7a0e-8f4e-4c0f-9a55-2b8f6c1d3e4f".into(),
        server_time_ms: 1_700_000_000_000,
        resume_token: "t.-_9".into(),
        resume_window_ms: 30_000,
        resumed: true,
        packets_received: (1 << 53) - 1,
        replies_lost: u32::MAX,
    };
    let plain = Welcome { session_id: "s".into(), server_time_ms: 5, ..Welcome::default() };
    let reconnect = |url: &str, after_ms| control(Event::Reconnect(Reconnect { url: url.into(), after_ms }));
    let refresh = ClientControl { request: Some(Request::Refresh(Refresh { token: "T.0.s".into() })) };
    let meta = MessageMeta {
        client_version: "1.2".into(),
        protocol_version: "3".into(),
        device_id: "phone".into(),
        session_id: "s".into(),
        trace_id: "t".into(),
        span_id: "p".into(),
        extra: [("k".into(), "v".into())].into(),
    };
    let request = ChatRequest {
        base: base(1_700_000_000_000),
        receiver_id: 8,
        channel_id: -1,
        r#type: 3,
        content: "grüße 🎲".into(),
        extra_data: vec![0, 0xff],
        meta: Some(meta),
    };
    let response = ChatResponse {
        base: base(5),
        success: true,
        error_message: "late".into(),
        message_id: i64::MAX,
        timestamp: 1_700_000_000_000,
        target_user_id: 7,
        target_session_id: "s".into(),
        // The clients have no use for it.
        meta: None,
    };
    let failed = ChatResponse { error_message: "full".into(), target_user_id: 1, ..Default::default() };
    let terse = ChatResponse { success: true, target_user_id: 1, ..Default::default() };
    let broadcast = MessageBroadcast {
        message_id: 3_681_400_539_019_546_666,
        sender_id: -2,
        sender_name: "Anna".into(),
        channel_id: 9,
        content: "grüße 🎲".into(),
        timestamp: 1_700_000_000_000,
        r#type: 1,
        target_user_id: 8,
        meta: None,
    };
    let negative = MessageBroadcast { message_id: -1, ..Default::default() };
    let sender = MessageBroadcast { sender_id: 2, target_user_id: 1, ..Default::default() };
    let content = MessageBroadcast { sender_id: 1, content: "hi".into(), ..Default::default() };
    let empty_base = ChatResponse { base: Some(MessageBase::default()), ..Default::default() };
    [
        ("a welcome with everything", welcome.encode_to_vec()),
        ("a welcome without resume", plain.encode_to_vec()),
        ("the token expires", control(Event::TokenExpires(TokenExpires { in_ms: 30_000 }))),
        ("a gap", control(Event::Gap(Gap { blind_ms: 4000 }))),
        ("a Reconnect", reconnect("wss://b/ws?x=1", 1500)),
        ("a Reconnect with a negative pause", reconnect("", -1)),
        ("a Reconnect without fields", reconnect("", 0)),
        ("a new token", refresh.encode_to_vec()),
        (
            "the chat request of the example",
            ChatRequest { base: base(0), content: "hi".into(), ..Default::default() }.encode_to_vec(),
        ),
        ("a chat request with everything", request.encode_to_vec()),
        ("a chat response with everything", response.encode_to_vec()),
        ("a chat response with an empty base", empty_base.encode_to_vec()),
        ("a chat response that failed", failed.encode_to_vec()),
        ("what could be both is a terse chat response", terse.encode_to_vec()),
        ("a chat broadcast with everything", broadcast.encode_to_vec()),
        ("a chat broadcast with a negative id", negative.encode_to_vec()),
        ("a chat broadcast that only its sender tells from a response", sender.encode_to_vec()),
        ("a chat broadcast with content", content.encode_to_vec()),
    ]
}

#[test]
fn the_vectors_of_messages_are_what_the_gateway_encodes() {
    let table = fs::read_to_string(root().join("client/vectors/messages.json")).unwrap();
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    let cases = table["cases"].as_array().unwrap().iter().filter(|case| !case["message"].is_null());
    let listed: BTreeMap<_, _> =
        cases.map(|case| (case["name"].as_str().unwrap(), case["bytes"].as_str().unwrap().to_owned())).collect();
    let hex = |bytes: Vec<u8>| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    };
    assert_eq!(listed, messages().map(|(name, bytes)| (name, hex(bytes))).into());
}
