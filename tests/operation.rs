//! Tests of what an operator sees of a running gateway: health, readiness, metrics and the log. Also tests of its
//! commands, its limits and how it stops.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "operation/checkup.rs"]
mod checkup;
#[path = "operation/command.rs"]
mod command;
#[path = "operation/counters.rs"]
mod counters;
#[path = "operation/drain.rs"]
mod drain;
#[path = "operation/instances.rs"]
mod instances;
#[path = "operation/limits.rs"]
mod limits;
#[path = "operation/memory.rs"]
mod memory;
#[path = "operation/stderr.rs"]
mod stderr;
#[path = "operation/trace.rs"]
mod trace;

use gateway_tests::{
    Gateway, PATIENCE, Packet, Redis, ReservedPort, Setup, chat_request, dist, eventually, header, put, root,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Stdio,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{Duration, Instant, timeout},
};

/// Returns the status and the report of `/readyz`.
async fn readiness(gateway: &Gateway) -> (u16, Value) {
    let (status, body) = gateway.get("/readyz").await;
    (status, serde_json::from_str(&body).unwrap())
}

/// Waits until `/readyz` has this status, and returns the report.
async fn ready_is(gateway: &Gateway, status: u16) -> Value {
    gateway_tests::eventually(&format!("/readyz {status}"), || async {
        let (found, report) = readiness(gateway).await;
        assert_eq!(report["ready"], found == 200);
        assert_eq!(report["reasons"].as_array().unwrap().is_empty(), found == 200, "{report}");
        (found == status).then_some(report)
    })
    .await
}

fn reason(report: &Value) -> &str {
    assert_eq!(report["reasons"].as_array().unwrap().len(), 1, "{report}");
    report["reasons"][0].as_str().unwrap()
}

#[tokio::test]
async fn healthz_is_200_while_the_process_lives_and_anything_else_is_404() {
    let gateway = Gateway::start(Setup { plugins: Vec::new(), ..Setup::default() }).await;
    assert_eq!(gateway.get("/healthz").await.0, 200);
    assert_eq!(gateway.get("/unknown").await.0, 404);
}

#[tokio::test]
async fn readyz_is_200_with_the_bus_connected_and_the_plugins_loaded() {
    let gateway = Gateway::start(Setup::default()).await;
    let file =
        |name: &str| json!({ "file": format!("{name}.wasm"), "serving": format!("{name} 0.1.0"), "error": null });
    let report = json!({
        "ready": true,
        "reasons": [],
        "plugins": [file("chat"), file("system")],
        "quarantined": [],
        "games": [{ "id": "mmo", "backends": {}, "chat_backend": null }],
    });
    assert_eq!(readiness(&gateway).await, (200, report));
}

#[tokio::test]
async fn readyz_is_503_until_a_plugin_that_is_bad_at_the_start_is_mended() {
    let files = vec![("system.wasm", b"rubbish".to_vec())];
    let gateway = Gateway::start(Setup { plugins: vec!["chat"], files, ..Setup::default() }).await;
    let (status, report) = readiness(&gateway).await;
    assert_eq!(status, 503);
    assert!(reason(&report).starts_with("system.wasm: it is not a WebAssembly component"), "{report}");
    put(&gateway.plugin("system"), &fs::read(dist("system")).unwrap());
    ready_is(&gateway, 200).await;
}

#[tokio::test]
async fn readyz_is_503_without_any_plugin() {
    let gateway = Gateway::start(Setup { plugins: Vec::new(), ..Setup::default() }).await;
    assert_eq!(reason(&ready_is(&gateway, 503).await), "the plugins directory holds no .wasm file");
    put(&gateway.plugin("system"), &fs::read(dist("system")).unwrap());
    ready_is(&gateway, 200).await;
}

#[tokio::test]
async fn readyz_and_gateway_bus_connected_show_whether_redis_is_reachable() {
    let mut redis = Redis::start().await;
    let gateway = Gateway::start(Setup::redis(&redis)).await;
    ready_is(&gateway, 200).await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    redis.kill().await;
    let report = ready_is(&gateway, 503).await;
    let because = format!("the bus is not connected: redis redis://127.0.0.1:{}: ", redis.port);
    assert!(reason(&report).starts_with(&because), "{report}");
    gateway.metric_is("gateway_bus_connected", 0.0).await;
    redis.restart().await;
    ready_is(&gateway, 200).await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
}

#[tokio::test]
async fn a_gateway_starts_while_redis_is_unreachable_and_readyz_says_so() {
    let closed = ReservedPort::reserve();
    let yaml = format!("redis: {{ addr: \"127.0.0.1:{}\" }}", closed.number());
    let gateway = Gateway::start(Setup { yaml, ..Setup::default() }).await;
    let report = ready_is(&gateway, 503).await;
    assert!(reason(&report).starts_with("the bus is not connected: "), "{report}");
    gateway.metric_is("gateway_bus_connected", 0.0).await;
    gateway.client().await.assert_alive().await;
}

#[tokio::test]
async fn readyz_shows_whether_a_chat_backend_is_reachable_and_stays_200_when_not() {
    let reserved = ReservedPort::reserve();
    let (backend, port) = (reserved.listen(), reserved.number());
    let yaml = format!("games: [{{ id: mmo, chat_backend: {{ host: 127.0.0.1, port: {port} }} }}, {{ id: rpg }}]");
    let gateway = Gateway::start(Setup { yaml, ..Setup::default() }).await;
    let address = format!("127.0.0.1:{port}");
    let reachable = json!({ "address": address, "reachable": true, "error": null });
    let rpg = json!({ "id": "rpg", "backends": {}, "chat_backend": null });
    let mmo = json!({ "id": "mmo", "backends": { "chat": reachable }, "chat_backend": reachable });
    backends_are(&gateway, |games| *games == json!([mmo, rpg])).await;
    drop(backend);
    backends_are(&gateway, |games| {
        let mmo = &games[0]["chat_backend"];
        let refused = mmo["error"].as_str().is_some_and(|error| error.starts_with("Connection refused"));
        mmo["address"] == address && mmo["reachable"] == false && refused
    })
    .await;
}

/// Waits until the readiness report describes the games as expected. The report's status has to stay 200.
async fn backends_are(gateway: &Gateway, expected: impl Fn(&Value) -> bool) {
    gateway_tests::eventually("the backends in /readyz", || async {
        let report = ready_is(gateway, 200).await;
        expected(&report["games"]).then_some(())
    })
    .await;
}

/// Returns a listener with a full accept queue, and the two connections that fill the queue. The listener answers no
/// further connection.
async fn deaf() -> (TcpListener, TcpStream, TcpStream) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap())
}

#[tokio::test]
async fn many_chat_backends_that_do_not_answer_delay_readyz_no_longer_than_one() {
    const BACKENDS: usize = 30;
    let mut backends = Vec::new();
    let mut games = Vec::new();
    for number in 0..BACKENDS {
        let backend = deaf().await;
        let port = backend.0.local_addr().unwrap().port();
        backends.push(backend);
        games.push(format!("{{ id: game-{number}, chat_backend: {{ host: 127.0.0.1, port: {port} }} }}"));
    }
    let yaml = format!("games: [{}]", games.join(", "));
    let gateway = Gateway::start(Setup { yaml, ..Setup::default() }).await;
    ready_is(&gateway, 200).await;
    // If the gateway asked the backends for the report, one of them would already take a second.
    let mut times = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        readiness(&gateway).await;
        times.push(began.elapsed());
    }
    times.sort();
    assert!(times[2] < Duration::from_millis(500), "{times:?}");
    backends_are(&gateway, |games| {
        let dead = |game: &Value| game["chat_backend"]["error"] == "no answer within 1s";
        games.as_array().unwrap().iter().filter(|game| dead(game)).count() == BACKENDS
    })
    .await;
}

#[tokio::test]
async fn readyz_is_503_if_the_only_plugin_file_is_bad() {
    let gateway = Gateway::start(Setup { plugins: Vec::new(), ..Setup::default() }).await;
    put(&gateway.plugin("system"), b"rubbish");
    gateway.logged("plugin rejected").await;
    for _ in 0..5 {
        let (status, report) = readiness(&gateway).await;
        assert_eq!(status, 503, "{report}");
    }
    put(&gateway.plugin("system"), &fs::read(dist("system")).unwrap());
    ready_is(&gateway, 200).await;
}

/// The metrics that docs/operation.md lists, with the labels that it names.
fn documented_metrics() -> Vec<(String, BTreeSet<String>)> {
    let page = fs::read_to_string(root().join("docs/operation.md")).unwrap();
    let (_, table) = page.split_once("| metric | counts |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let first_cells = table.lines().filter_map(|row| row.split('|').nth(1));
    let metrics = first_cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let metrics = metrics.map(|metric| metric.split_once('{').unwrap_or((metric, "")));
    let labels = |labels: &str| labels.trim_end_matches('}').split(',').map(str::to_owned).collect::<BTreeSet<_>>();
    metrics.map(|(name, names)| (name.to_owned(), labels(names))).collect()
}

/// This test does not look for metrics that the page omits. `documentation.rs` does.
#[tokio::test]
async fn every_metric_of_the_operation_page_has_samples_with_exactly_the_labels_that_the_page_names() {
    let redis = Redis::start().await;
    // The lag of a stream exists while the stream is read.
    let setup = Setup::redis_with(&redis, "timeout_ms: 30000, streams: [broadcast]");
    let gateway = Gateway::start(Setup { yaml: setup.yaml, ..Setup::server("send_queue: 4") }).await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    let (mut first, mut second) = (gateway.client().await, gateway.client().await);
    first.assert_alive().await;
    assert_eq!(first.request(9, b"").await.status, 3);
    second.send(1, &chat_request("mmo", 7, "hi")).await;
    second.socket.close(None).await.unwrap();
    gateway.metric_is("gateway_disconnections_total{reason=\"closed\"}", 1.0).await;
    // The queue holds four messages. A session that reads more than four packets before it writes has to drop replies.
    first.send_messages((0..60).map(|seq| header(seq, 3))).await;
    gateway.metric_is("gateway_messages_received_total{route=\"3\"}", 61.0).await;

    let samples = openmetrics(&gateway.get("/metrics").await.1);
    let documented = documented_metrics();
    assert!(documented.len() > 20, "{documented:?}");
    for (name, labels) in documented {
        let labels: BTreeSet<_> = labels.into_iter().filter(|label| !label.is_empty()).collect();
        let bucket = format!("{name}_bucket");
        let (found, labels) = match (samples.get(&name), samples.get(&bucket)) {
            (Some(found), None) => (found, labels),
            (None, Some(found)) => {
                for part in ["sum", "count"] {
                    assert_labels(&samples[&format!("{name}_{part}")], &labels, &name);
                }
                (found, labels.into_iter().chain(["le".to_owned()]).collect())
            }
            _ => panic!("no {name} in {samples:#?}"),
        };
        assert_labels(found, &labels, &name);
    }
}

#[track_caller]
fn assert_labels(samples: &[(Vec<String>, f64)], expected: &BTreeSet<String>, name: &str) {
    for (labels, _) in samples {
        assert_eq!(labels.iter().cloned().collect::<BTreeSet<_>>(), *expected, "the labels of {name}");
    }
}

type Samples = BTreeMap<String, Vec<(Vec<String>, f64)>>;

/// Parses the text format of OpenMetrics 1.0. Returns the label names and the value of each sample, by the sample's
/// name.
fn openmetrics(text: &str) -> Samples {
    let body = text.strip_suffix("# EOF\n").expect("the text ends with the line # EOF");
    let mut types = BTreeMap::new();
    let mut samples = Samples::new();
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let (kind, rest) = comment.split_once(' ').expect(line);
            let (family, what) = rest.split_once(' ').expect(line);
            let is_known = family.starts_with("gateway_") || family == "process_start_time_seconds";
            assert!(matches!(kind, "HELP" | "TYPE" | "UNIT") && is_known, "{line}");
            if kind == "TYPE" {
                assert_eq!(types.insert(family.to_owned(), what.to_owned()), None, "{family} is a duplicate");
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect(line);
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        let names = labels.map(|label| {
            let (name, value) = label.split_once('=').expect(line);
            assert!(value.starts_with('"') && value.ends_with('"') && value.len() >= 2, "{line}");
            name.to_owned()
        });
        let kind = types.iter().find_map(|(family, kind)| {
            let suffix = name.strip_prefix(family.as_str())?;
            let kinds: &[&str] = match suffix {
                "" => &["gauge"],
                "_total" => &["counter"],
                "_bucket" | "_sum" | "_count" => &["histogram"],
                _ => &[],
            };
            kinds.contains(&kind.as_str()).then_some(())
        });
        assert!(kind.is_some(), "no TYPE line for {line}");
        samples.entry(name.to_owned()).or_default().push((names.collect(), value.parse().expect(line)));
    }
    samples
}

#[tokio::test]
async fn metrics_are_served_as_openmetrics() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut stream = TcpStream::connect(gateway.admin).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let head = response.split("\r\n\r\n").next().unwrap().to_lowercase();
    assert!(head.contains("\r\ncontent-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let gateway = Gateway::start(Setup::default()).await;
    let (mut first, mut second) = (gateway.client().await, gateway.client().await);
    for _ in 0..3 {
        first.assert_alive().await;
    }
    assert_eq!(first.request(9, b"").await.status, 3);
    assert_eq!(second.request(1, b"\xff").await.status, 2);
    second.send(1, &chat_request("mmo", 7, "hi")).await;
    assert_eq!(second.receive_any().await.text(), "no backend listens on game:request:mmo");
    second.assert_alive().await;
    gateway.metric_is("gateway_sessions", 2.0).await;
    second.socket.close(None).await.unwrap();
    for (metric, count) in [
        ("gateway_disconnections_total{reason=\"closed\"}", 1.0),
        ("gateway_sessions", 1.0),
        ("gateway_connections_total", 2.0),
        ("gateway_messages_received_total{route=\"1\"}", 2.0),
        ("gateway_messages_received_total{route=\"3\"}", 4.0),
        ("gateway_messages_received_total{route=\"none\"}", 1.0),
        // Two welcomes, four heartbeats, three refusals.
        ("gateway_messages_sent_total", 9.0),
        ("gateway_routing_errors_total{reason=\"no_route\"}", 1.0),
        ("gateway_routing_errors_total{reason=\"malformed_payload\"}", 1.0),
        ("gateway_routing_errors_total{reason=\"unavailable\"}", 1.0),
        ("gateway_bus_unheard_total", 1.0),
        // The beginnings of two sessions, one request, and the end of a session.
        ("gateway_plugin_calls_total{plugin=\"chat\",outcome=\"ok\"}", 4.0),
        ("gateway_plugin_calls_total{plugin=\"chat\",outcome=\"rejected\"}", 1.0),
        ("gateway_plugin_calls_total{plugin=\"system\",outcome=\"ok\"}", 4.0),
        ("gateway_plugin_call_seconds_count{plugin=\"system\"}", 4.0),
        ("gateway_plugin_call_seconds_count{plugin=\"chat\"}", 5.0),
        ("gateway_plugin_reloads_total{plugin=\"chat\",outcome=\"loaded\"}", 1.0),
        ("gateway_plugin_generation{plugin=\"system\"}", 1.0),
        ("gateway_bus_connected", 1.0),
    ] {
        gateway.metric_is(metric, count).await;
    }
}

#[tokio::test]
async fn serving_a_thousand_messages_writes_no_log_line() {
    let redis = Redis::start().await;
    let _backend = redis.observe().await;
    let mut gateway = Gateway::start(Setup::redis(&redis).patient()).await;
    redis.subscribers_are("broadcast", 1).await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    // The lines of the start are there.
    eventually("both connections are logged", || async {
        let lines = gateway.log_lines();
        (lines.iter().filter(|line| line["fields"]["message"] == "bus connected").count() == 2).then_some(())
    })
    .await;
    let mut client = gateway.client().await;
    let before = gateway.log_lines().len();
    let (beats, chats) = (500, 500);
    let chat = (1..=chats).map(|seq| [header(seq, 1), chat_request("mmo", 7, "hi")].concat());
    client.send_messages(chat).await;
    client.send_messages((1..=beats).map(|seq| [header(seq, 3), b"beat".to_vec()].concat())).await;
    for seq in 1..=beats {
        let reply = Packet { seq, route: 3, flags: 1, status: 0, payload: "beat".into() };
        assert_eq!(client.receive().await, reply);
    }
    gateway.metric_is("gateway_messages_received_total{route=\"1\"}", f64::from(chats)).await;
    gateway.metric_is("gateway_bus_published_total", f64::from(chats)).await;
    drop(client);
    gateway.metric_is("gateway_sessions", 0.0).await;
    gateway.signal("TERM").await;
    gateway.exit().await;
    gateway.logged("stopped").await;
    let lines = gateway.log_lines();
    let messages: Vec<_> = lines[before..].iter().map(|line| line["fields"]["message"].as_str().unwrap()).collect();
    assert_eq!(messages, ["draining", "stopped"]);
}

#[tokio::test]
async fn with_log_format_json_every_line_is_an_object_with_time_level_and_message() {
    let mut gateway = Gateway::start(Setup { env: vec![("RUST_LOG", "gateway=debug")], ..Setup::default() }).await;
    gateway.client().await.request(9, b"\"quoted\"\nand more").await;
    put(&gateway.plugin("new"), b"rubbish");
    gateway.logged("plugin rejected").await;
    gateway.signal("TERM").await;
    gateway.exit().await;
    gateway.logged("stopped").await;
    for line in gateway.log_lines() {
        let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        assert!(text(&line["timestamp"]) && text(&line["level"]) && text(&line["target"]), "{line}");
        assert!(line["fields"].is_object(), "{line}");
    }
}

#[tokio::test]
async fn the_gateway_takes_no_huge_pages() {
    let gateway = Gateway::start(Setup { plugins: Vec::new(), ..Setup::default() }).await;
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    match status.lines().find_map(|line| line.strip_prefix("THP_enabled:")) {
        Some(enabled) => assert_eq!(enabled.trim(), "0"),
        // The test does not use `eprintln!`, since the test harness hides that output if the test passes.
        None => std::io::Write::write_all(
            &mut std::io::stderr(),
            b"SKIPPED: huge pages: /proc/PID/status has no line THP_enabled on this kernel\n",
        )
        .unwrap(),
    }
}

#[tokio::test]
async fn rust_log_filters_the_log_lines() {
    let gateway = Gateway::start(Setup { env: vec![("RUST_LOG", "warn,gateway::app=info")], ..Setup::default() }).await;
    let mut client = gateway.client().await;
    assert_eq!(client.request(9, b"").await.status, 3);
    gateway.logged("packet refused").await;
    let quiet = |line: &Value| line["level"] == "WARN" || line["target"] == "gateway::app";
    assert!(gateway.log_lines().iter().all(quiet), "{:#?}", gateway.log_lines());

    let gateway = Gateway::start(Setup { env: vec![("RUST_LOG", "gateway=debug")], ..Setup::default() }).await;
    drop(gateway.client().await);
    assert_eq!(gateway.logged("session ended").await["level"], "DEBUG");
}

#[tokio::test]
async fn the_text_format_has_no_colours_if_there_is_no_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "server: { host: 127.0.0.1, port: 0 }\nadmin: { listen: \"127.0.0.1:0\" }\nplugins: { directory: . }\n";
    fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    let mut command = Gateway::command(None);
    command.arg("run").current_dir(&folder).stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    loop {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("a line").unwrap().expect("it runs");
        assert!(line.contains(" INFO gateway::app: "), "{line:?}");
        assert!(!line.contains(char::is_control), "{line:?}");
        if line.contains("serving plugins=none") {
            break;
        }
    }
}
