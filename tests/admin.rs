//! Tests of the admin listener as an API (docs/operation.md): who may use it, what it tells, and the end of sessions.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "admin/access.rs"]
mod access;
#[path = "admin/browser.rs"]
mod browser;
#[path = "admin/closings.rs"]
mod closings;
#[path = "admin/pages.rs"]
mod pages;

use gateway_tests::{Client, Gateway, Setup, dist, eventually, in_time, put};
use serde_json::{Value, json};
use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const JSON: &str = "Content-Type: application/json\r\n";

/// An answer of the admin listener.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// Asserts the status, and that the body is JSON with this error.
    #[track_caller]
    fn is_error(&self, status: u16, why: &str) {
        assert_eq!((self.status, self.json()), (status, json!({ "error": why })), "{}", self.head);
        assert!(self.head.contains("content-type: application/json\r\n"), "{}", self.head);
        assert!(!self.head.to_lowercase().contains("access-control"), "{}", self.head);
    }
}

/// Sends a request with these header lines, and with a `Host` unless they have one.
async fn send(gateway: &Gateway, line: &str, headers: &str, body: &str) -> Answer {
    let asking = async {
        let mut stream = TcpStream::connect(gateway.admin).await.unwrap();
        let host = if headers.contains("Host:") { "" } else { "Host: localhost\r\n" };
        let length = body.len();
        let head = format!("{line} HTTP/1.1\r\n{host}{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // The gateway may answer before it has read the body.
        let _ = stream.write_all(body.as_bytes()).await;
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.unwrap();
        String::from_utf8(response).unwrap()
    };
    let response = in_time(line, asking).await;
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    Answer { status: head[9..12].parse().unwrap(), head: format!("{head}\r\n"), body: body.to_owned() }
}

async fn get(gateway: &Gateway, path: &str) -> Answer {
    send(gateway, &format!("GET {path}"), "", "").await
}

async fn post(gateway: &Gateway, path: &str, body: &str) -> Answer {
    send(gateway, &format!("POST {path}"), JSON, body).await
}

fn unix_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[tokio::test]
async fn the_sessions_of_a_user_are_listed_and_no_others() {
    let gateway = Gateway::start(Setup::default()).await;
    let before = unix_ms();
    let clients = [gateway.client_of(7).await, gateway.client_of(7).await];
    let _other = gateway.client_of(8).await;
    // No backend listens, and the refusals of the requests may still be on their way.
    let report = eventually("empty send queues", || async {
        let answer = get(&gateway, "/api/sessions?user=7").await;
        assert_eq!(answer.status, 200);
        let report = answer.json();
        let is_empty = |session: &Value| session["queued_messages"] == 0;
        report["sessions"].as_array().unwrap().iter().all(is_empty).then_some(report)
    })
    .await;
    assert_eq!(report["total"], 2);
    let sessions = report["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    for (session, client) in sessions.iter().zip(&clients) {
        let connected_at = session["connected_at_ms"].as_u64().unwrap();
        assert!((before - 1100..=unix_ms() + 100).contains(&connected_at), "{connected_at} is not after {before}");
        let remote = session["remote"].as_str().unwrap();
        assert!(remote.starts_with("127.0.0.1:"), "{remote}");
        let expected = json!({
            "id": client.welcome.session_id,
            "user": 7,
            "user_id": "7",
            "remote": remote,
            "away": false,
            "connected_at_ms": connected_at,
            "queued_messages": 0,
            "queued_bytes": 0,
        });
        assert_eq!(session, &expected);
    }
    assert_eq!(get(&gateway, "/api/sessions?user=9").await.json(), json!({ "sessions": [], "total": 0 }));
    drop(clients);
    eventually("the end of the sessions", || async {
        let report = get(&gateway, "/api/sessions?user=7").await.json();
        (report == json!({ "sessions": [], "total": 0 })).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_list_of_sessions_needs_a_user_or_a_session() {
    let gateway = Gateway::start(Setup::default()).await;
    for query in [
        "",
        "?",
        "?user",
        "?user=",
        "?user=0",
        "?user=-1",
        "?user=x",
        "?user=9223372036854775808",
        "?id=7",
        "?session=7",
        "?session=",
        "?user=7&user=8",
    ] {
        let answer = get(&gateway, &format!("/api/sessions{query}")).await;
        let why = "the query has to be ?user=ID, and ID is 1 or more, or ?session=ID, and ID is a UUID";
        answer.is_error(400, why);
    }
}

/// Returns the entry of a file in the list of plugins, with its times replaced by null.
async fn file(gateway: &Gateway, name: &str) -> Value {
    let report = get(gateway, "/api/plugins").await.json();
    assert_eq!(report["directory_error"], Value::Null);
    let mut file = report["plugins"].as_array().unwrap().iter().find(|file| file["file"] == name).unwrap().clone();
    if file["plugin"] != Value::Null {
        let since = file["plugin"]["in_use_since_ms"].take().as_u64().unwrap();
        assert!((unix_ms() - 120_000..=unix_ms()).contains(&since), "{since}");
    }
    file
}

#[tokio::test]
async fn plugins_are_listed_with_what_they_serve_and_why_a_file_is_not_in_use() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut client = gateway.client_of(7).await;
    let system = |generation: u32, heartbeats: u32, error: Value| {
        let calls = json!({ "ok": heartbeats, "rejected": 0, "trap": 0, "deadline": 0, "memory": 0, "invalid": 0 });
        json!({
            "file": "system.wasm",
            "plugin": {
                "name": "system",
                "version": "0.1.0",
                "generation": generation,
                "in_use_since_ms": null,
                "routes": [3],
                "topics": [],
                "calls": calls,
                "quarantined": false,
            },
            "error": error,
            "compiling": false,
        })
    };
    assert_eq!(file(&gateway, "system.wasm").await, system(1, 1, Value::Null));
    let chat = file(&gateway, "chat.wasm").await;
    assert_eq!((&chat["plugin"]["topics"], &chat["plugin"]["calls"]["ok"]), (&json!(["broadcast"]), &json!(2)));
    put(&gateway.plugin("system"), b"rubbish");
    gateway.logged("plugin rejected").await;
    client.assert_alive().await;
    // The list follows the log line.
    let rejected = eventually("an error of the new file", || async {
        Some(file(&gateway, "system.wasm").await).filter(|file| file["error"].is_string())
    })
    .await;
    let error = rejected["error"].as_str().unwrap();
    assert!(error.starts_with("it is not a WebAssembly component"), "{error}");
    assert_eq!(rejected, system(1, 2, error.into()));
    put(&gateway.plugin("other"), &fs::read(dist("chat")).unwrap());
    let unused = eventually("an error of the second file", || async {
        let file = get(&gateway, "/api/plugins").await.json()["plugins"][1].clone();
        (file["file"] == "other.wasm" && file["error"].is_string()).then_some(file)
    })
    .await;
    assert_eq!((&unused["plugin"], &unused["compiling"]), (&Value::Null, &json!(false)));
}

/// Asserts that the client is told that its session ends.
async fn is_closed(mut client: Client, code: u16, reason: &str) {
    let frame = client.closed().await.expect("a close code");
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (code, reason));
}
