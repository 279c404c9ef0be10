//! Tests of who may use the admin listener: the token, other origins, and requests that are not for it.

use super::{Answer, JSON, get, post, send};
use gateway_tests::{Gateway, Setup, eventually};
use serde_json::json;
use std::{fs, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

const TOKEN: &str = "a-secret-of-the-operator";
const WRONG: &str = "a-secret-of-somebody-else";
const NO_TOKEN: &str = "the request needs `Authorization: Bearer` with admin.token";

fn with_token() -> Setup {
    Setup { admin: format!("token: {TOKEN}"), ..Setup::default() }
}

async fn authorized(gateway: &Gateway, path: &str, authorization: &str) -> Answer {
    send(gateway, &format!("GET {path}"), &format!("Authorization: {authorization}\r\n"), "").await
}

#[track_caller]
fn is_unauthorized(answer: &Answer) {
    answer.is_error(401, NO_TOKEN);
    assert!(answer.head.contains("www-authenticate: Bearer\r\n"), "{}", answer.head);
}

#[tokio::test]
async fn with_a_token_every_path_needs_it_but_the_pages_health_and_the_status_of_readiness() {
    let gateway = Gateway::start(Setup { env: vec![("RUST_LOG", "trace")], ..with_token() }).await;
    let bearer = format!("Bearer {TOKEN}");
    for path in ["/metrics", "/api/sessions?user=7", "/api/plugins"] {
        is_unauthorized(&get(&gateway, path).await);
        for wrong in [&*format!("Bearer {WRONG}"), &bearer[..bearer.len() - 1], &format!("{bearer}x"), TOKEN, "Bearer"]
        {
            is_unauthorized(&authorized(&gateway, path, wrong).await);
        }
        assert_eq!(authorized(&gateway, path, &bearer).await.status, 200, "{path}");
    }
    is_unauthorized(&get(&gateway, "/api/unknown").await);
    is_unauthorized(&get(&gateway, "/unknown").await);
    is_unauthorized(&post(&gateway, "/api/users/7/close", "{}").await);
    authorized(&gateway, "/api/unknown", &bearer).await.is_error(404, "there is no such path");
    assert_eq!(get(&gateway, "/healthz").await.status, 200);
    let brief = get(&gateway, "/readyz").await;
    assert_eq!((brief.status, brief.json()), (200, json!({ "ready": true })));
    let wrong = authorized(&gateway, "/readyz", &format!("Bearer {WRONG}")).await;
    assert_eq!((wrong.status, wrong.json()), (200, json!({ "ready": true })));
    let report = authorized(&gateway, "/readyz", &bearer).await;
    assert_eq!((report.status, report.json()["plugins"].as_array().unwrap().len()), (200, 2));

    let line = gateway.logged("admin request refused").await;
    assert_eq!((&line["level"], &line["fields"]["status"]), (&json!("WARN"), &json!(401)), "{line}");
    assert!(gateway.log_lines().iter().any(|line| line["level"] == "TRACE"), "the log has the level trace");
    for line in gateway.log_lines() {
        let line = line.to_string();
        assert!(!line.contains(TOKEN) && !line.contains(WRONG), "{line}");
    }
}

#[tokio::test]
async fn readiness_without_the_token_says_503_without_a_reason() {
    let gateway = Gateway::start(Setup { plugins: Vec::new(), ..with_token() }).await;
    let brief = get(&gateway, "/readyz").await;
    assert_eq!((brief.status, brief.json()), (503, json!({ "ready": false })));
}

#[tokio::test]
async fn requests_of_pages_are_refused() {
    let gateway = Gateway::start(Setup::default()).await;
    let (path, port) = ("/api/users/7/close", gateway.admin.port());
    let host =
        "the Host of the request is neither localhost nor a loopback address: use one of these, or set admin.token";
    for line in [&*format!("POST {path}"), "GET /api/plugins"] {
        for other in ["evil.example", "gateway.internal:8081", "10.0.0.1"] {
            send(&gateway, line, &format!("{JSON}Host: {other}\r\n"), "").await.is_error(403, host);
        }
        for origin in ["http://evil.example", "null", "http://localhost:1", "http://127.0.0.1"] {
            let headers = format!("{JSON}Host: localhost:{port}\r\nOrigin: {origin}\r\n");
            send(&gateway, line, &headers, "").await.is_error(
                403,
                "the request comes from a page of another origin: open the page at the address of this listener",
            );
        }
        let own = format!("{JSON}Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\n");
        assert_eq!(send(&gateway, line, &own, "").await.status, 200);
        let address = format!("{JSON}Host: 127.0.0.1:{port}\r\n");
        assert_eq!(send(&gateway, line, &address, "").await.status, 200);
    }
    // Probes and collectors may use any name.
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(
            send(&gateway, &format!("GET {path}"), "Host: gateway.internal\r\n", "").await.status,
            200,
            "{path}"
        );
    }
}

#[tokio::test]
async fn with_a_token_any_host_may_be_named_and_other_origins_are_refused() {
    let gateway = Gateway::start(with_token()).await;
    let named = format!("Authorization: Bearer {TOKEN}\r\nHost: gateway.example\r\n");
    assert_eq!(send(&gateway, "GET /api/plugins", &named, "").await.status, 200);
    let own = format!("{named}Origin: https://gateway.example\r\n");
    assert_eq!(send(&gateway, "GET /api/plugins", &own, "").await.status, 200);
    let other = format!("{named}Origin: https://evil.example\r\n");
    let answer = send(&gateway, "GET /api/plugins", &other, "").await;
    answer.is_error(
        403,
        "the request comes from a page of another origin: open the page at the address of this listener",
    );
}

#[tokio::test]
async fn only_the_right_methods_and_paths_are_served() {
    let gateway = Gateway::start(Setup::default()).await;
    let wrong = "this path takes another method, see the header Allow";
    for (line, allow) in [
        ("POST /api/sessions", "GET,HEAD"),
        ("DELETE /api/plugins", "GET,HEAD"),
        ("GET /api/users/7/close", "POST"),
        ("PUT /api/sessions/1/close", "POST"),
        ("POST /metrics", "GET,HEAD"),
    ] {
        let answer = send(&gateway, line, JSON, "{}").await;
        answer.is_error(405, wrong);
        assert!(answer.head.contains(&format!("allow: {allow}\r\n")), "{line}: {}", answer.head);
    }
    for path in ["/api", "/api/", "/api/users", "/api/users/7", "/api/plugins/", "/api/users/7/close/x"] {
        get(&gateway, path).await.is_error(404, "there is no such path");
    }
}

#[tokio::test]
async fn a_post_needs_json_of_at_most_4_kb() {
    let gateway = Gateway::start(Setup::default()).await;
    let line = "POST /api/users/7/close";
    for headers in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: application/json2\r\n",
    ] {
        let answer = send(&gateway, line, headers, "{}").await;
        answer.is_error(415, "the request needs `Content-Type: application/json`");
    }
    let with_charset = "Content-Type: Application/JSON; charset=utf-8\r\n";
    assert_eq!(send(&gateway, line, with_charset, "{}").await.status, 200);
    let body = |bytes: usize| format!("{{}}{}", " ".repeat(bytes - 2));
    assert_eq!(send(&gateway, line, JSON, &body(4096)).await.status, 200);
    send(&gateway, line, JSON, &body(4097)).await.is_error(413, "the body is larger than 4096 bytes");
}

#[tokio::test]
async fn connections_are_bounded_and_the_oldest_ones_make_room() {
    let gateway = Gateway::start(Setup::default()).await;
    let before = sockets(&gateway);
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(gateway.admin).await.unwrap());
    }
    eventually("256 open connections", || async { (sockets(&gateway) - before == 256).then_some(()) }).await;
    let mut byte = [0];
    for stream in &mut silent[..44] {
        assert_eq!(stream.read(&mut byte).await.unwrap_or(0), 0);
    }
    // Each has 10 seconds for its request.
    assert_eq!(time::timeout(Duration::from_secs(60), silent[299].read(&mut byte)).await.unwrap().unwrap_or(0), 0);
}

#[tokio::test]
async fn clients_that_do_not_read_their_answers_keep_nobody_waiting() {
    let gateway = Gateway::start(Setup::default()).await;
    let requests = "GET /pages/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2000);
    let mut deaf = Vec::new();
    for _ in 0..256 {
        let mut stream = TcpStream::connect(gateway.admin).await.unwrap();
        // The gateway stops to read when its answers are not read.
        let _ = time::timeout(Duration::from_millis(20), stream.write_all(requests.as_bytes())).await;
        deaf.push(stream);
    }
    for _ in 0..20 {
        let answer = time::timeout(Duration::from_secs(5), gateway.get("/healthz")).await;
        assert_eq!(answer.unwrap(), (200, "ok\n".to_owned()));
    }
}

/// Returns the number of open sockets of the gateway.
fn sockets(gateway: &Gateway) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap();
    let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.unwrap().path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}
