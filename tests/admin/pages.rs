//! Tests of the dashboard and the playground as files: who gets them, what the browser lets them do, and what they weigh.

use super::{get, post, send, unix_ms};
use gateway_tests::{Gateway, Setup, eventually, root};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

const PAGES: &str = "host/src/admin/pages";
const TOKEN: &str = "a-secret-of-the-operator";

/// The bytes that both pages may take, compressed.
const MAX_COMPRESSED_BYTES: usize = 100_000;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// Returns the paths that a file names in its attributes and imports.
fn named(content: &str, from: &str) -> Vec<String> {
    let quoted = content.split(['"', '\n']).collect::<Vec<_>>();
    let is_reference = |before: &str| ["src=", "href=", "from ", "import "].iter().any(|word| before.ends_with(word));
    let references = quoted.windows(2).filter(|pair| is_reference(pair[0])).map(|pair| pair[1]);
    let (folder, _) = from.rsplit_once('/').unwrap();
    references
        .map(|reference| match reference.strip_prefix("./") {
            Some(name) => format!("{folder}/{name}"),
            None => reference.to_owned(),
        })
        .collect()
}

/// Asks for both pages, and for every file that they name. Returns the content and the type of each by its path.
async fn served(gateway: &Gateway) -> BTreeMap<String, (String, String)> {
    let (mut served, mut wanted) = (BTreeMap::new(), vec!["/".to_owned(), "/playground".to_owned()]);
    while let Some(path) = wanted.pop() {
        if served.contains_key(&path) {
            continue;
        }
        let answer = get(gateway, &path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        let header = |name: &str| {
            let line = answer.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            line.unwrap_or_else(|| panic!("{path} has no {name}: {}", answer.head)).to_owned()
        };
        assert_eq!(header("content-security-policy"), POLICY, "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin", "{path}");
        wanted.extend(named(&answer.body, &path));
        let kind = header("content-type");
        served.insert(path, (answer.body, kind));
    }
    served
}

#[tokio::test]
async fn every_file_of_the_pages_is_served_and_no_other() {
    let gateway = Gateway::start(Setup::default()).await;
    let served = served(&gateway).await;
    for (path, (content, kind)) in &served {
        let expected = match path.rsplit_once('.').map(|(_, extension)| extension) {
            None => "text/html; charset=utf-8",
            Some("js" | "ts") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            other => panic!("{path}: {other:?}"),
        };
        assert_eq!(kind, expected, "{path}");
        assert!(content.len() > 100, "{path} is empty");
    }
    for entry in fs::read_dir(root().join(PAGES)).unwrap() {
        let path = entry.unwrap().path();
        let content = fs::read_to_string(&path).unwrap();
        assert!(served.values().any(|(served, _)| *served == content), "{} is not used", path.display());
    }
    for path in
        ["/pages", "/pages/", "/pages/x.js", "/pages/..%2fpages.rs", "/pages/%ff", "/playground/", "/index.html"]
    {
        get(&gateway, path).await.is_error(404, "there is no such path");
    }
    assert_eq!(post(&gateway, "/", "{}").await.status, 405);
}

#[tokio::test]
async fn the_pages_name_no_other_host_and_have_no_code_in_their_markup() {
    let gateway = Gateway::start(Setup::default()).await;
    for (path, (content, kind)) in served(&gateway).await {
        let content = content.replace("http://www.w3.org/2000/svg", "");
        for scheme in ["http://", "https://", "\"//", "'//", "`//", "@import"] {
            assert!(!content.contains(scheme), "{path} has {scheme}");
        }
        for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"] {
            assert!(!content.contains(sink), "{path} turns a text into code or markup: {sink}");
        }
        if kind.starts_with("text/html") {
            assert!(!content.contains(" style=") && !content.contains("<style"), "{path} has styles in its markup");
            let handlers = content.split(' ').filter(|word| word.starts_with("on") && word.contains("=\"")).count();
            assert_eq!((handlers, content.matches("<script>").count()), (0, 0), "{path} has code in its markup");
        }
    }
}

#[tokio::test]
async fn both_pages_together_are_small() {
    let gateway = Gateway::start(Setup::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let mut compressed = 0;
    for (path, (content, _)) in served(&gateway).await {
        let file = folder.path().join("file");
        fs::write(&file, content).unwrap();
        let output = Command::new("gzip").arg("-c").arg(&file).output().unwrap();
        assert!(output.status.success(), "{path}: {output:?}");
        compressed += output.stdout.len();
    }
    assert!((10_000..MAX_COMPRESSED_BYTES).contains(&compressed), "{compressed} bytes");
}

#[tokio::test]
async fn with_a_token_the_pages_need_none_and_their_data_does() {
    let gateway = Gateway::start(Setup { admin: format!("token: {TOKEN}"), ..Setup::default() }).await;
    let pages = served(&gateway).await;
    assert!(pages.len() > 10, "{:?}", pages.keys());
    assert!(!gateway.log_lines().iter().any(|line| line.to_string().contains("admin request refused")));
    for path in ["/api/gateway", "/api/log", "/api/sessions?session=x", "/metrics"] {
        assert_eq!(get(&gateway, path).await.status, 401, "{path}");
        let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
        assert_ne!(send(&gateway, &format!("GET {path}"), &bearer, "").await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn the_gateway_describes_itself() {
    let yaml = "games: [{ id: mmo }]\nresume: { window_s: 7 }".to_owned();
    let gateway = Gateway::start(Setup { yaml, ..Setup::default() }).await;
    let mut report = get(&gateway, "/api/gateway").await.json();
    let started = report["started_at_ms"].take().as_u64().unwrap();
    assert!((unix_ms() - 120_000..=unix_ms()).contains(&started), "{started}");
    let ready = get(&gateway, "/readyz").await.json();
    let expected = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started_at_ms": null,
        "websocket": { "address": gateway.address, "path": "/ws", "tls": false },
        "bus": { "kind": "embedded", "place": null, "error": null },
        "auth": false,
        "resume_window_ms": 7000,
        "readiness": ready,
    });
    assert_eq!(report, expected);
    let line = gateway.logged("to watch the gateway").await;
    let url = format!("http://{}/", gateway.admin);
    assert_eq!(line["fields"]["message"], format!("open {url} to watch the gateway, and {url}playground to play"));
}

#[tokio::test]
async fn the_last_warnings_are_listed_whatever_the_log_shows() {
    let gateway =
        Gateway::start_without_waiting(Setup { env: vec![("RUST_LOG", "gateway=info")], ..Setup::default() }).await;
    gateway.logged("\"message\":\"serving\"").await;
    assert_eq!(get(&gateway, "/api/log").await.json(), json!({ "lines": [], "last": 0 }));
    let mut client = gateway.client().await;
    client.send(99, b"<b>x</b>").await;
    let report = eventually("a warning", || async {
        let report = get(&gateway, "/api/log").await.json();
        (report["last"] == 1).then_some(report)
    })
    .await;
    let line = &report["lines"][0];
    let at = line["at_ms"].as_u64().unwrap();
    assert!((unix_ms() - 60_000..=unix_ms()).contains(&at), "{at}");
    let logged = gateway.logged("packet refused").await;
    assert_eq!(
        (&line["number"], &line["level"], &line["message"]),
        (&json!(1), &json!("WARN"), &json!("packet refused"))
    );
    assert_eq!((&line["target"], &line["fields"]["route"]), (&logged["target"], &json!("99")));
    assert_eq!(line["fields"]["session"], json!(client.welcome.session_id));
    assert_eq!(get(&gateway, "/api/log?after=1").await.json(), json!({ "lines": [], "last": 1 }));
    assert_eq!(get(&gateway, "/api/log?after=0").await.json(), report);
    for query in ["?", "?after=", "?after=x", "?after=-1", "?before=1", "?after=1&after=2"] {
        let answer = get(&gateway, &format!("/api/log{query}")).await;
        answer.is_error(400, "the query has to be ?after=NUMBER, the number of a line");
    }
}

#[tokio::test]
async fn a_log_that_is_switched_off_still_has_its_last_errors() {
    let setup = Setup {
        env: vec![("RUST_LOG", "gateway::app=info")],
        files: vec![("x.wasm", b"rubbish".to_vec())],
        ..Setup::default()
    };
    let gateway = Gateway::start(setup).await;
    let lines = get(&gateway, "/api/log").await.json()["lines"].clone();
    assert_eq!((&lines[0]["level"], &lines[0]["fields"]["file"]), (&json!("ERROR"), &json!("x.wasm")), "{lines}");
    assert!(!gateway.log_lines().iter().any(|line| line["level"] == "ERROR"), "the log has no errors");
}

#[tokio::test]
async fn one_session_is_found_by_its_id() {
    let gateway = Gateway::start(Setup::default()).await;
    let (client, _other) = (gateway.client().await, gateway.client().await);
    let id = client.welcome.session_id.clone();
    let report = get(&gateway, &format!("/api/sessions?session={id}")).await.json();
    let session = &report["sessions"][0];
    assert_eq!((&report["total"], &session["id"], &session["user"]), (&json!(1), &json!(id), &Value::Null));
    let unknown = get(&gateway, "/api/sessions?session=01234567-89ab-cdef-0123-456789abcdef").await;
    assert_eq!(unknown.json(), json!({ "sessions": [], "total": 0 }));
}

#[tokio::test]
async fn the_pages_explain_every_reason() {
    let gateway = Gateway::start(Setup::default()).await;
    let (_, metrics) = gateway.get("/metrics").await;
    let page = fs::read_to_string(root().join(PAGES).join("reasons.js")).unwrap();
    let explained = |group: &str| -> BTreeSet<String> {
        let (_, rows) = page.split_once(&format!("export const {group} = {{\n")).unwrap();
        let rows = rows.split_once("\n};").unwrap().0.lines();
        rows.map(|row| row.trim().split_once(": \"").unwrap().0.to_owned()).collect()
    };
    for (group, metric) in [
        ("DROPPED", "gateway_messages_dropped_total{reason=\""),
        ("ROUTING", "gateway_routing_errors_total{reason=\""),
        ("HANDSHAKES", "gateway_handshakes_refused_total{reason=\""),
        ("ENDS", "gateway_disconnections_total{reason=\""),
        ("RESUMES", "gateway_resumes_total{outcome=\""),
        ("UNRESUMED", "gateway_sessions_not_resumed_total{reason=\""),
    ] {
        let counted = metrics.lines().filter_map(|line| Some(line.strip_prefix(metric)?.split_once('"')?.0.to_owned()));
        assert_eq!(explained(group), counted.collect(), "{group} in reasons.js");
    }
}
