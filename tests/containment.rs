//! Tests that a bad plugin harms only itself. A corpus of hostile guests gives the exact outcome that each misbehaviour
//! must have, while a healthy route has to be served as usual.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "containment/bystander.rs"]
mod bystander;
#[path = "containment/corpus.rs"]
mod corpus;
#[path = "containment/crowd.rs"]
mod crowd;
#[path = "containment/directions.rs"]
mod directions;
#[path = "containment/endurance.rs"]
mod endurance;
#[path = "containment/hooks.rs"]
mod hooks;
#[path = "containment/loading.rs"]
mod loading;
#[path = "containment/loops.rs"]
mod loops;
#[path = "containment/neighbours.rs"]
mod neighbours;
#[path = "containment/offload.rs"]
mod offload;
#[path = "containment/quarantine.rs"]
mod quarantine;
#[path = "containment/quickness.rs"]
mod quickness;
#[path = "containment/unrest.rs"]
mod unrest;

use gateway_tests::{Client, Gateway, Setup, probe, put};
use std::{fs, path::PathBuf};

/// The route of `tests/guests/hostile`.
const ROUTE: u8 = 0x66;
/// The game of the requests that the plugin of `tests/guests/hostile` subscribes to.
const GAME: &str = "hostile";

/// The route of `tests/guests/probe`.
const PROBE: u8 = 0x70;

/// Returns a setup with chat, system and the plugin `probe`, which does what its packets, messages and queries ask for.
/// `keys` are keys of its settings.
fn probing(keys: &str) -> Setup {
    let yaml = format!("plugins: {{ directory: plugins, settings: {{ probe: {{ {keys} }} }} }}");
    Setup { yaml, files: vec![("probe.wasm", probe())], ..Setup::default() }
}

/// Lets the plugin `probe` run a script, and returns its output.
async fn ask(client: &mut Client, script: &str) -> String {
    let reply = client.request(PROBE, script.as_bytes()).await;
    assert_eq!(reply.status, 0, "{script}: {}", reply.text());
    reply.text().to_owned()
}

fn hostile() -> PathBuf {
    gateway_tests::guest("hostile")
}

/// Returns settings under which the hostile plugin misbehaves in the export `call` as `way` says. `limits` are further
/// keys of its settings.
fn settings(call: &str, way: &str, limits: &str) -> Setup {
    settings_of("hostile", call, way, limits)
}

fn settings_of(plugin: &str, call: &str, way: &str, limits: &str) -> Setup {
    let comma = if limits.is_empty() { "" } else { ", " };
    let settings = format!("{plugin}: {{ config: {{ {call}: {way} }}{comma}{limits} }}");
    let yaml = format!(
        "games: [{{ id: mmo }}, {{ id: {GAME} }}]\nplugins: {{ directory: plugins, settings: {{ {settings} }} }}"
    );
    Setup { yaml, ..Setup::default() }
}

/// Starts a gateway with chat and system, and puts the hostile plugin into its plugins directory.
async fn gateway(setup: Setup) -> Gateway {
    let gateway = Gateway::start(setup).await;
    put(&gateway.plugin("hostile"), &fs::read(hostile()).unwrap());
    gateway
}

/// Does the same as [`gateway`], and waits until the hostile plugin is loaded.
async fn loaded(setup: Setup) -> Gateway {
    let gateway = gateway(setup).await;
    gateway.logged("plugin loaded\",\"plugin\":\"hostile").await;
    gateway
}

/// Checks the size of the corpus that docs/plugins.md states.
#[test]
fn the_docs_say_how_many_ways_to_misbehave_there_are() {
    let page = fs::read_to_string(gateway_tests::root().join("docs/plugins.md")).unwrap();
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    let (serving, loading) = (corpus::WAYS, loading::WAYS);
    let claim = format!("{serving} ways to misbehave while it serves and {loading} while it loads");
    assert!(page.contains(&claim), "docs/plugins.md does not say: {claim}");
}
