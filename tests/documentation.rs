//! Tests that the pages below docs/ name every configuration key, metric, reason and status of the code. The pages must
//! not name keys, metrics and statuses that do not exist.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use gateway_tests::{Gateway, Redis, Setup, root};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[track_caller]
fn same(page: &str, documented: &BTreeSet<String>, real: &BTreeSet<String>) {
    let missing: Vec<_> = real.difference(documented).collect();
    let invented: Vec<_> = documented.difference(real).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "{page} does not name {missing:?}, and names {invented:?}, which do not exist"
    );
}

/// Returns the leaf keys in `host/src/config/raw.rs`, each with the path of its section.
fn keys() -> BTreeSet<String> {
    let raw = read("host/src/config/raw.rs");
    let (_, sections) = raw.split_once("\nsection! {").unwrap();
    let (sections, _) = sections.split_once("\n}").unwrap();
    let path = |section: &str| match section {
        "File" => None,
        "Game" => Some("games[]".to_owned()),
        "PluginSettings" => Some("plugins.settings.NAME".to_owned()),
        // The page describes this section as a whole: `{ host, port }`.
        "Backend" => None,
        "Tls" => Some("server.tls".to_owned()),
        "Reconnect" => Some("server.reconnect".to_owned()),
        "Sentinel" => Some("redis.sentinel".to_owned()),
        "Cluster" => Some("redis.cluster".to_owned()),
        section => Some(section.to_lowercase()),
    };
    let (mut keys, mut section) = (BTreeSet::new(), None);
    for line in sections.lines().map(str::trim) {
        if let Some(name) = line.strip_suffix(" {") {
            section = path(name);
        } else if let (Some(section), Some((field, _))) = (&section, line.split_once(": ")) {
            // These fields are sections with keys of their own.
            let is_section = ["cluster", "reconnect", "sentinel", "settings", "tls"].contains(&field);
            if field.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !is_section {
                let name = if field == "backends" { ".NAME" } else { "" };
                keys.insert(format!("{section}.{field}{name}"));
            }
        }
    }
    assert!(keys.len() > 30, "{keys:?}");
    keys
}

#[test]
fn the_configuration_page_names_every_key_and_no_other() {
    let page = read("docs/configuration.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let documented = rows.flat_map(|row| quoted(row.split('|').nth(1).unwrap())).map(str::to_owned).collect();
    same("docs/configuration.md", &documented, &keys());
}

#[test]
fn gateway_yaml_shows_every_key() {
    let file = read("gateway.yaml");
    let shown: BTreeSet<_> = file
        .split(|c: char| !c.is_ascii_lowercase() && c != '_' && c != ':')
        .filter_map(|word| word.strip_suffix(':'))
        .collect();
    let keys = keys();
    let missing: Vec<_> =
        keys.iter().filter(|key| !shown.contains(key.trim_end_matches(".NAME").rsplit('.').next().unwrap())).collect();
    assert!(missing.is_empty(), "gateway.yaml does not show {missing:?}");
}

#[test]
fn the_protocol_page_names_every_status() {
    let code = read("proto/wire/src/packet.rs");
    let (_, statuses) = code.split_once("pub enum Status {").unwrap();
    let (statuses, _) = statuses.split_once("\n}").unwrap();
    let real = statuses.lines().filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "));
    let real: BTreeSet<_> = real.map(|(_, number)| number.to_owned()).collect();
    let page = read("docs/protocol.md");
    let (_, table) = page.split_once("| status | name | meaning |").unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let documented = rows.map(|row| row.split('|').nth(1).unwrap().trim().to_owned());
    let documented = documented.filter(|status| status.parse::<u16>().is_ok()).collect();
    same("docs/protocol.md", &documented, &real);
}

#[tokio::test]
async fn the_operation_page_names_every_metric_and_every_reason() {
    let redis = Redis::start().await;
    let gateway = Gateway::start(Setup::redis_with(&redis, "streams: [broadcast]")).await;
    // The lag of a stream exists when it is being read.
    gateway.metric_is("gateway_bus_connected", 1.0).await;
    // The histogram and the counters of plugin calls exist only after the first call.
    gateway.client().await.assert_alive().await;
    let (_, metrics) = gateway.get("/metrics").await;
    let mut real = BTreeSet::new();
    let mut reasons = BTreeMap::<String, BTreeSet<String>>::new();
    for line in metrics.lines() {
        let mut words = line.split_whitespace();
        if let (Some("#"), Some("TYPE"), Some(name), Some(kind)) =
            (words.next(), words.next(), words.next(), words.next())
        {
            real.insert(if kind == "counter" { format!("{name}_total") } else { name.to_owned() });
        }
        if let Some((name, labels)) = line.split_once('{')
            && let Some((_, reason)) = labels.split_once("reason=\"")
        {
            reasons.entry(name.to_owned()).or_default().insert(reason.split('"').next().unwrap().to_owned());
        }
    }
    let page = read("docs/operation.md");
    let (_, table) = page.split_once("| metric | counts |").unwrap();
    let (table, _) = table.split_once("## Troubleshooting").unwrap();
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| `")).collect();
    let names = rows.iter().flat_map(|row| quoted(row.split('|').nth(1).unwrap()));
    let documented = names.map(|name| name.split('{').next().unwrap().to_owned()).collect();
    same("docs/operation.md", &documented, &real);
    assert!(reasons.len() > 4, "{reasons:?}");
    for (name, real) in reasons {
        let rows = rows.iter().filter(|row| row.starts_with(&format!("| `{name}` |")));
        let words = rows.flat_map(|row| quoted(row.split('|').nth(2).unwrap()).map(str::to_owned));
        same(&format!("{name} in docs/operation.md"), &words.collect(), &real);
    }
}
