//! What a bad plugin can do, and what comes of it: a corpus of hostile guests, each with the exact outcome that it gets, and beside
//! each a healthy route that has to go on as if nothing were.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "containment/bystander.rs"]
mod bystander;
#[path = "containment/corpus.rs"]
mod corpus;
#[path = "containment/endurance.rs"]
mod endurance;
#[path = "containment/quarantine.rs"]
mod quarantine;

use gateway_tests::{Gateway, Setup};
use std::{fs, path::PathBuf};

/// The route of `tests/guests/hostile`, and the game whose requests it hears.
const ROUTE: u8 = 0x66;
const GAME: &str = "hostile";

fn hostile() -> PathBuf {
    gateway_tests::guest("hostile")
}

/// Settings under which the hostile plugin misbehaves in `call` in the way `way`; `limits` are more of its keys.
fn settings(call: &str, way: &str, limits: &str) -> Setup {
    let comma = if limits.is_empty() { "" } else { ", " };
    let hostile = format!("hostile: {{ config: {{ {call}: {way} }}{comma}{limits} }}");
    let yaml = format!(
        "games: [{{ id: mmo }}, {{ id: {GAME} }}]\nplugins: {{ directory: plugins, settings: {{ {hostile} }} }}"
    );
    Setup { yaml, ..Setup::default() }
}

/// A gateway with chat, system and the hostile plugin.
async fn gateway(setup: Setup) -> Gateway {
    let gateway = Gateway::start(setup).await;
    fs::copy(hostile(), gateway.plugins().join(".hostile.new")).unwrap();
    fs::rename(gateway.plugins().join(".hostile.new"), gateway.plugin("hostile")).unwrap();
    gateway
}
