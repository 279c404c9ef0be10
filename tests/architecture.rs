//! Tests of the invariants in ARCHITECTURE.md that concern the code itself. They read the code instead of running it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "architecture/modules.rs"]
mod modules;

use gateway_tests::root;
use modules::Module;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

/// The number of lines that a file of the host may have.
const MAX_LINES: usize = 400;

/// The rule of one top-level module of the host: which other top-level modules it may use, and which of the guarded
/// outside crates. An outside crate is guarded if at least one rule lists it.
struct Rule {
    room: &'static str,
    rooms: &'static [&'static str],
    crates: &'static [&'static str],
}

const fn rule(room: &'static str, rooms: &'static [&'static str], crates: &'static [&'static str]) -> Rule {
    Rule { room, rooms, crates }
}

/// The rules of all top-level modules of the host, from the top to the bottom. A module uses only modules further down.
const RULES: [Rule; 18] = [
    rule(
        "app",
        &[
            "admin",
            "auth",
            "bus",
            "config",
            "file",
            "finding",
            "net",
            "plugin",
            "reload",
            "routing",
            "sync",
            "telemetry",
            "traces",
        ],
        &["tokio::net", "tokio::signal"],
    ),
    rule(
        "admin",
        &["auth", "bus", "config", "reload", "routing", "sync", "telemetry"],
        &["axum", "hyper", "subtle", "tokio::net"],
    ),
    rule(
        "net",
        &["auth", "config", "delivery", "file", "routing", "sync", "telemetry", "traces"],
        &["httparse", "tokio::net", "tokio_rustls", "x509_cert"],
    ),
    rule("auth", &["config", "file", "http_client", "reload", "telemetry"], &["hyper", "jsonwebtoken"]),
    rule("reload", &["config", "file", "memory", "plugin", "routing", "telemetry"], &["notify"]),
    rule("routing", &["bus", "delivery", "plugin", "sync", "telemetry", "traces"], &[]),
    rule(
        "bus",
        &["config", "finding", "sync", "telemetry", "tls_client", "traces"],
        &["redis", "tokio::net", "tokio_rustls"],
    ),
    rule("config", &["delivery", "file", "plugin", "traces"], &["hyper", "redis", "serde_yaml"]),
    rule("plugin", &["sync", "telemetry", "traces"], &["prometheus_client", "wasmtime", "wasmparser", "wit_component"]),
    rule("delivery", &["sync", "traces"], &["subtle", "tokio::net"]),
    rule(
        "traces",
        &["http_client", "sync", "telemetry"],
        &["hyper", "opentelemetry", "opentelemetry_proto", "opentelemetry_sdk"],
    ),
    rule("telemetry", &["sync"], &["prometheus_client", "tracing_subscriber"]),
    rule("file", &[], &[]),
    rule("finding", &[], &[]),
    rule("memory", &[], &[]),
    rule("http_client", &["tls_client"], &["hyper", "tokio::net", "tokio_rustls"]),
    rule("tls_client", &[], &["tokio_rustls"]),
    rule("sync", &[], &[]),
];

fn host() -> BTreeMap<String, Module> {
    modules::tree(&root().join("host/src/lib.rs"))
}

#[test]
fn every_module_of_the_host_uses_only_what_its_rule_allows() {
    let mut broken = Vec::new();
    let guarded: Vec<_> = RULES.iter().flat_map(|rule| rule.crates).collect();
    for (name, module) in host() {
        let room = name.split("::").next().unwrap();
        if room == "crate" {
            continue;
        }
        let Some(rule) = RULES.iter().find(|rule| rule.room == room) else {
            broken.push(format!("{name} has no rule: add one for {room}"));
            continue;
        };
        for used in &module.uses {
            let other = used.split("::").next().unwrap();
            if other != room && !rule.rooms.contains(&other) {
                broken.push(format!("{name} uses {used}, but the rule of {room} does not allow {other}"));
            }
        }
        for path in &module.paths {
            let names = |outside: &&&str| path == **outside || path.starts_with(&format!("{outside}::"));
            if let Some(outside) = guarded.iter().find(|outside| names(outside))
                && !rule.crates.contains(outside)
            {
                broken.push(format!("{name} uses {path}, but the rule of {room} does not allow {outside}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_module_uses_only_modules_further_down() {
    let place = |module: &str| RULES.iter().position(|rule| rule.room == module);
    for Rule { room, rooms, .. } in &RULES {
        for other in *rooms {
            assert!(place(other) > place(room), "{room} may use {other}, which is not further down in the list");
        }
    }
}

#[test]
fn every_rule_is_for_a_module_that_exists_and_allows_only_what_is_used() {
    let host = host();
    for Rule { room, rooms, crates } in &RULES {
        let modules =
            || host.iter().filter(|(name, _)| name.split("::").next() == Some(room)).map(|(_, module)| module);
        assert!(modules().next().is_some(), "there is no module {room}");
        for other in *rooms {
            let is_used = modules().any(|module| module.uses.iter().any(|used| used.split("::").next() == Some(other)));
            assert!(is_used, "{room} may use {other}, but does not");
        }
        for outside in *crates {
            let names = |path: &String| path == outside || path.starts_with(&format!("{outside}::"));
            assert!(modules().any(|module| module.paths.iter().any(names)), "{room} may use {outside}, but does not");
        }
    }
}

#[test]
fn every_file_below_the_sources_is_a_module() {
    let modules: Vec<_> = host().into_values().map(|module| module.file).collect();
    let mut folders = vec![root().join("host/src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_test = path.file_stem().is_some_and(|stem| stem == "tests");
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test {
                assert!(modules.contains(&path), "{} is not a module of the crate", path.display());
            }
        }
    }
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let crates = [
        "host/src/lib.rs",
        "host/cli/src/main.rs",
        "client/src/main.rs",
        "client/connection/src/lib.rs",
        "client/load/src/lib.rs",
        "proto/wire/src/lib.rs",
        "bench/src/main.rs",
        "plugin-sdk/src/lib.rs",
        "tests/support/lib.rs",
    ];
    let circles: Vec<_> = crates.iter().flat_map(|file| modules::circles(&modules::tree(&root().join(file)))).collect();
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn the_host_depends_on_no_chat_crate() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "-p", "gateway-cli", "-e", "normal,build", "--prefix", "none"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.starts_with("gateway-cli v"), "{tree}");
    let chat: Vec<_> = tree.lines().filter(|line| line.contains("chat")).collect();
    assert!(chat.is_empty(), "{chat:?}");
}

#[test]
fn the_host_names_no_topic_and_no_message_of_a_game() {
    for (name, module) in host() {
        for word in ["game:request", "broadcast"] {
            let named = module.strings.iter().find(|text| text.contains(word));
            assert_eq!(named, None, "{name} names the topic {word}");
        }
        for word in ["ChatRequest", "ChatResponse", "MessageBroadcast"] {
            let named = module.strings.iter().chain(&module.paths).find(|text| text.contains(word));
            assert_eq!(named, None, "{name} names the message {word}");
        }
        for route in ["0x01", "0x02", "0x1", "0x2"] {
            assert!(!module.numbers.contains(route), "{name} names the route {route}");
        }
    }
}

#[test]
fn no_file_of_the_host_is_long() {
    for (_, module) in host() {
        let lines = fs::read_to_string(&module.file).unwrap().lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines, but at most {MAX_LINES} are allowed", module.file.display());
    }
}

#[test]
fn the_code_map_names_every_file_of_the_host_and_no_other() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, map) = text.split_once("## Code map").unwrap();
    let (map, _) = map.split_once("**Outside the host**").unwrap();
    let named = map.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs")).map(str::to_owned);
    let named: BTreeSet<String> = named.collect();
    let source = root().join("host/src");
    let files = host().into_values().map(|module| module.file.strip_prefix(&source).unwrap().display().to_string());
    let files: BTreeSet<String> = files.collect();
    let missing: Vec<_> = files.difference(&named).collect();
    let invented: Vec<_> = named.difference(&files).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "the code map of ARCHITECTURE.md lacks {missing:?}, and names {invented:?}, which do not exist"
    );
}
