//! Tests of the alerts and the board. The alerts have unit tests of their own, and a real Prometheus that scrapes a real
//! gateway shows that the metrics and labels exist which alerts and board ask for.

use crate::{has, read, succeeds};
use gateway_tests::{Gateway, Redis, Setup, eventually};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Stdio,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

const ALERTS: &str = "deploy/prometheus/alerts.yaml";
const CONFIG: &str = "deploy/prometheus/prometheus.yaml";
const BOARD: &str = "deploy/grafana/gateway.json";

/// The labels that Prometheus adds to what it scrapes, and the bounds of a histogram's buckets.
const GIVEN: [&str; 3] = ["instance", "job", "le"];

/// A query, the labels that are shown with its result, and where it stands.
#[derive(Clone, Debug)]
struct Query {
    place: String,
    expression: String,
    shown: BTreeSet<String>,
}

/// Returns the text between each `open` and the next `close`.
fn between<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(open).skip(1).filter_map(move |rest| Some(rest.split_once(close)?.0.trim()))
}

fn alerts() -> Vec<Value> {
    let file: Value = serde_yaml::from_str(&read(ALERTS)).unwrap();
    file["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn queries_of_alerts() -> Vec<Query> {
    let query = |alert: &Value| {
        let summary = alert["annotations"]["summary"].as_str().unwrap();
        Query {
            place: format!("the alert {}", alert["alert"]),
            expression: alert["expr"].as_str().unwrap().to_owned(),
            shown: between(summary, "$labels.", "}}").map(|label| label.trim().to_owned()).collect(),
        }
    };
    alerts().iter().map(query).collect()
}

fn queries_of_board() -> Vec<Query> {
    let board: Value = serde_json::from_str(&read(BOARD)).unwrap();
    let legend = |text: &Value| between(text.as_str().unwrap(), "{{", "}}").map(str::to_owned).collect();
    let panels = board["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
    let targets =
        panels.flat_map(|panel| panel["targets"].as_array().unwrap().iter().map(move |target| (panel, target)));
    let mut queries: Vec<_> = targets
        .map(|(panel, target)| Query {
            place: format!("the panel {}", panel["title"]),
            expression: target["expr"].as_str().unwrap().to_owned(),
            shown: legend(&target["legendFormat"]),
        })
        .collect();
    for annotation in board["annotations"]["list"].as_array().unwrap() {
        queries.push(Query {
            place: format!("the annotation {}", annotation["name"]),
            expression: annotation["expr"].as_str().unwrap().to_owned(),
            shown: legend(&annotation["titleFormat"]),
        });
    }
    for variable in board["templating"]["list"].as_array().unwrap() {
        if let Some(text) = variable["query"]["query"].as_str() {
            let (selector, label) = text.trim_start_matches("label_values(").rsplit_once(", ").unwrap();
            queries.push(Query {
                place: format!("the variable {}", variable["name"]),
                expression: selector.to_owned(),
                shown: BTreeSet::from([label.trim_end_matches(')').to_owned()]),
            });
        }
    }
    queries
}

/// The autoscaler of Kubernetes asks an adapter for a metric, and the adapter asks Prometheus.
fn queries_of_kubernetes() -> Vec<Query> {
    let files = ["autoscaler", "prometheus-adapter"].map(|name| format!("deploy/kubernetes/{name}.yaml"));
    let autoscaler: Value = serde_yaml::from_str(&read(&files[0])).unwrap();
    let adapter: Value = serde_yaml::from_str(&read(&files[1])).unwrap();
    let metric = &autoscaler["spec"]["metrics"][0]["pods"]["metric"]["name"];
    let series = &adapter["rules"]["custom"][0]["seriesQuery"];
    let name = |query: &Value| query.as_str().unwrap().split('{').next().unwrap().to_owned();
    assert_eq!(name(metric), name(series), "the metric of the autoscaler is that of the adapter");
    let query = |(place, query)| Query { place, expression: name(query), shown: BTreeSet::new() };
    files.into_iter().zip([metric, series]).map(query).collect()
}

/// The metrics of a gateway: by name, the labels and the values that each has.
type Series = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn series(metrics: &str) -> Series {
    let mut series = Series::new();
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = line.rsplit_once(' ').unwrap().0.split_once('{').unwrap_or((line, ""));
        let known = series.entry(name.split(' ').next().unwrap().to_owned()).or_default();
        for (label, value) in matchers(labels) {
            known.entry(label.to_owned()).or_default().insert(value.to_owned());
        }
    }
    series
}

/// Returns the labels in `label="value", label=~"value"}…`, each with its value.
fn matchers(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let text = text.split_once('}').map_or(text, |(labels, _)| labels);
    let mut pieces = text.split('"');
    std::iter::from_fn(move || {
        let label = pieces.next()?.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        Some((label, pieces.next()?))
    })
}

/// Returns the metrics that the expression names, each with the text after the name.
fn metrics_in(expression: &str) -> impl Iterator<Item = (&str, &str)> {
    let starts = expression.match_indices("gateway_").chain(expression.match_indices("process_"));
    starts.map(|(start, _)| {
        let rest = &expression[start..];
        rest.split_at(rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len()))
    })
}

/// Returns what the query names and the gateway does not have.
fn unknown(query: &Query, series: &Series) -> Vec<String> {
    let Query { place, expression, shown } = query;
    let mut unknown = Vec::new();
    let mut labels: BTreeSet<_> = GIVEN.map(str::to_owned).into();
    for (name, rest) in metrics_in(expression) {
        let Some(known) = series.get(name) else {
            unknown.push(format!("{place}: the metric {name}"));
            continue;
        };
        labels.extend(known.keys().cloned());
        let selected = matchers(rest.strip_prefix('{').unwrap_or_default());
        for (label, value) in selected.filter(|(label, _)| !GIVEN.contains(label)) {
            let Some(values) = known.get(label) else {
                unknown.push(format!("{place}: the label {label} of {name}"));
                continue;
            };
            let missing = value.split('|').filter(|value| !value.starts_with('$') && !values.contains(*value));
            unknown.extend(missing.map(|value| format!("{place}: {name}{{{label}={value:?}}}")));
        }
    }
    let grouped =
        between(expression, "by (", ")").flat_map(|list| list.split(',').map(|label| label.trim().to_owned()));
    let missing = grouped.chain(shown.iter().cloned()).filter(|label| !labels.contains(label));
    unknown.extend(missing.map(|label| format!("{place}: the label {label}")));
    unknown
}

/// Starts a gateway that shows all its metrics.
async fn start(redis: &Redis) -> Gateway {
    // The lag of a stream exists when it is being read.
    let gateway = Gateway::start(Setup::redis_with(redis, "streams: [broadcast], timeout_ms: 30000")).await;
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    gateway.client().await.assert_alive().await;
    eventually("the lag of the stream", || async {
        gateway.get("/metrics").await.1.contains("gateway_bus_stream_lag_entries{").then_some(())
    })
    .await;
    gateway
}

#[tokio::test]
async fn alerts_and_board_name_only_metrics_and_labels_that_exist() {
    let redis = Redis::start().await;
    let gateway = start(&redis).await;
    let series = series(&gateway.get("/metrics").await.1);
    let queries: Vec<_> = [queries_of_alerts(), queries_of_board(), queries_of_kubernetes()].concat();
    assert!(queries.len() > 50, "{queries:#?}");
    let unknown: Vec<_> = queries.iter().flat_map(|query| unknown(query, &series)).collect();
    assert!(unknown.is_empty(), "the gateway does not have {unknown:#?}");
}

#[test]
fn each_alert_has_a_runbook_entry_and_a_unit_test() {
    let page = read("docs/operation.md");
    let (_, runbook) = page.split_once("\n## Alerts\n").unwrap();
    let runbook = runbook.split("\n## ").next().unwrap();
    let headings = runbook.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_owned);
    let headings: BTreeSet<_> = headings.collect();
    let names: BTreeSet<_> = alerts().iter().map(|alert| alert["alert"].as_str().unwrap().to_owned()).collect();
    assert_eq!(headings, names, "the headings below `Alerts` in docs/operation.md, and the names of the alerts");
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert_eq!(alert["annotations"]["runbook_url"], format!("docs/operation.md#{}", name.to_lowercase()));
        assert!(["critical", "warning"].contains(&alert["labels"]["severity"].as_str().unwrap()), "{name}");
    }
    let tests: Value = serde_yaml::from_str(&read("deploy/prometheus/alerts.test.yaml")).unwrap();
    let tested = tests["tests"].as_array().unwrap().iter().map(|test| test["name"].as_str().unwrap().to_owned());
    assert_eq!(tested.collect::<BTreeSet<_>>(), names, "the unit tests and the alerts");
}

#[tokio::test]
async fn promtool_accepts_the_alerts_and_their_unit_tests_pass() {
    if has("promtool") {
        succeeds("promtool", &["check", "rules", ALERTS]).await;
        succeeds("promtool", &["check", "config", CONFIG]).await;
        succeeds("promtool", &["test", "rules", "deploy/prometheus/alerts.test.yaml"]).await;
    }
}

#[test]
fn the_board_is_laid_out_and_has_a_data_source_to_choose() {
    let board: Value = serde_json::from_str(&read(BOARD)).unwrap();
    let variables = board["templating"]["list"].as_array().unwrap();
    assert!(variables.iter().any(|variable| variable["type"] == "datasource" && variable["name"] == "datasource"));
    assert!(board["schemaVersion"].as_u64().unwrap() >= 38, "Grafana 10");
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in board["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have the id {}", panel["id"]);
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{panel}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{} lies on another panel", panel["title"]);
        }
        let is_chosen = panel["type"] == "row" || panel["datasource"]["uid"] == "${datasource}";
        assert!(is_chosen, "{} has a fixed data source", panel["title"]);
    }
}

/// Starts Prometheus with the configuration that is shipped, except for the address of the gateway and the interval.
/// Returns its URL when it is ready.
async fn prometheus(gateway: &Gateway, folder: &std::path::Path) -> (Child, String) {
    let config = read(CONFIG).replace("127.0.0.1:8081", &gateway.admin.to_string()).replace("15s", "1s");
    fs::write(folder.join("prometheus.yaml"), config).unwrap();
    fs::write(folder.join("alerts.yaml"), read(ALERTS)).unwrap();
    let mut command = Command::new("prometheus");
    command.args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0"]);
    command.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (mut address, mut is_ready) = (None, false);
    let address = loop {
        let line = lines.next_line().await.unwrap().expect("Prometheus says where it listens, and that it is ready");
        address = line.split_once("msg=\"Listening on\" address=").map(|(_, it)| it.trim().to_owned()).or(address);
        // Until then, it answers every query with 503.
        is_ready |= line.contains("Server is ready to receive web requests");
        if let Some(address) = address.take_if(|_| is_ready) {
            break address;
        }
    };
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, format!("http://{address}"))
}

#[tokio::test]
async fn prometheus_scrapes_the_gateway_and_evaluates_every_alert_and_panel() {
    if !has("prometheus") || !has("promtool") {
        return;
    }
    let (redis, folder) = (Redis::start().await, tempfile::tempdir().unwrap());
    let gateway = start(&redis).await;
    let (_prometheus, url) = prometheus(&gateway, folder.path()).await;
    let ask = |query: String| {
        let url = url.clone();
        async move { succeeds("promtool", &["query", "instant", &url, &query]).await.trim().to_owned() }
    };
    eventually("three samples", || {
        let answer = ask("min(count_over_time(gateway_sessions{job=\"gateway\"}[5m])) >= 3".to_owned());
        async { (!answer.await.is_empty()).then_some(()) }
    })
    .await;
    for Query { place, expression, .. } in queries_of_board() {
        let expression = expression.replace("$__rate_interval", "5m").replace("$job", "gateway");
        let expression = expression.replace("$instance", ".*").replace("$plugin", ".*");
        let answer = ask(expression.clone()).await;
        // A comparison hides what is 0, and nothing has gone wrong yet.
        assert!(!answer.is_empty() || expression.contains(" > 0"), "{place} shows nothing: {expression}");
    }
    for alert in alerts() {
        ask(alert["expr"].as_str().unwrap().to_owned()).await;
        let firing = format!("ALERTS{{alertname={}, alertstate=\"firing\"}}", alert["alert"]);
        assert_eq!(ask(firing).await, "", "an alert fires although nothing is wrong");
    }
}
