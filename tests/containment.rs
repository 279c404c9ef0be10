//! What a bad plugin can do, and what comes of it: a corpus of hostile guests, each with the exact outcome that it gets, and beside
//! each a healthy route that has to go on as if nothing were.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "containment/bystander.rs"]
mod bystander;
#[path = "containment/corpus.rs"]
mod corpus;
#[path = "containment/endurance.rs"]
mod endurance;
#[path = "containment/loading.rs"]
mod loading;
#[path = "containment/neighbours.rs"]
mod neighbours;
#[path = "containment/offload.rs"]
mod offload;
#[path = "containment/quarantine.rs"]
mod quarantine;

use gateway_tests::{Gateway, Setup, put};
use std::{fs, path::PathBuf};

/// The route of `tests/guests/hostile`, and the game whose requests it hears.
const ROUTE: u8 = 0x66;
const GAME: &str = "hostile";

fn hostile() -> PathBuf {
    gateway_tests::guest("hostile")
}

/// Settings under which the hostile plugin misbehaves in `call` in the way `way`; `limits` are more of its keys.
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

/// A gateway with chat, system and the hostile plugin.
async fn gateway(setup: Setup) -> Gateway {
    let gateway = Gateway::start(setup).await;
    put(&gateway.plugin("hostile"), &fs::read(hostile()).unwrap());
    gateway
}

/// Waits until that one serves.
async fn loaded(setup: Setup) -> Gateway {
    let gateway = gateway(setup).await;
    gateway.logged("plugin loaded\",\"plugin\":\"hostile").await;
    gateway
}

/// docs/plugins.md counts the corpus.
#[test]
fn the_docs_say_how_many_ways_to_misbehave_there_are() {
    let page = fs::read_to_string(gateway_tests::root().join("docs/plugins.md")).unwrap();
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    let (serving, loading) = (corpus::WAYS, loading::WAYS);
    let claim = format!("{serving} ways to misbehave while it serves and {loading} while it loads");
    assert!(page.contains(&claim), "it does not say: {claim}");
}
