//! Tests of what plugins of version 0.2 can do: hooks, tags, groups, pushes, topics, the end of sessions, timers, state,
//! and metrics. The plugin is `tests/guests/probe`, which does what its packets and queries ask for.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "policy/batches.rs"]
mod batches;
#[path = "policy/bursts.rs"]
mod bursts;
#[path = "policy/connects.rs"]
mod connects;
#[path = "policy/departures.rs"]
mod departures;
#[path = "policy/ends.rs"]
mod ends;
#[path = "policy/faults.rs"]
mod faults;
#[path = "policy/holdings.rs"]
mod holdings;
#[path = "policy/interests.rs"]
mod interests;
#[path = "policy/measures.rs"]
mod measures;
#[path = "policy/pushes.rs"]
mod pushes;
#[path = "policy/saved.rs"]
mod saved;
#[path = "policy/state.rs"]
mod state;
#[path = "policy/timers.rs"]
mod timers;

use gateway_tests::{
    Client, Gateway, PATIENCE, Setup, eventually, probe, probe_as,
    wire::{Response, UPGRADE, Wire},
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The route of the plugin `probe`.
const ROUTE: u8 = 0x70;
/// The route of the second plugin, `zebra`, which the gateway asks after `probe`.
const ZEBRA: u8 = 0x71;

/// Returns a setup with chat, system and the plugin `probe`. `keys` are keys of its settings.
fn setup(keys: &str) -> Setup {
    let yaml = format!("plugins: {{ directory: plugins, settings: {{ probe: {{ {keys} }} }} }}");
    Setup { yaml, files: vec![("probe.wasm", probe())], ..Setup::default() }
}

async fn start() -> Gateway {
    Gateway::start(setup("")).await
}

/// Starts a gateway with the plugins `probe` and `zebra`. Their calls may take long, because some return a lot.
async fn start_both() -> Gateway {
    let settings = format!("probe: {{ call_timeout_ms: 5000 }}, zebra: {{ routes: [{ZEBRA}], call_timeout_ms: 5000 }}");
    let yaml = format!("plugins: {{ directory: plugins, settings: {{ {settings} }} }}");
    let files = vec![("probe.wasm", probe()), ("zebra.wasm", probe_as("zebra", 0, true))];
    Gateway::start(Setup { yaml, files, ..Setup::default() }).await
}

/// Connects with this query.
async fn connect(gateway: &Gateway, query: &str) -> Client {
    Client::connect_to(gateway.address, &format!("/ws?{query}")).await
}

/// Asks for a session with this query, and returns the answer of the gateway, which is not an upgrade.
async fn refused(gateway: &Gateway, query: &str) -> Response {
    let mut wire = Wire::connect(gateway.address).await;
    wire.send(UPGRADE.replace("/ws", &format!("/ws?{query}")).as_bytes()).await;
    let response = wire.response().await;
    assert_ne!(response.status, 101, "{query}");
    assert_eq!(wire.frame().await, None, "the connection goes on");
    response
}

/// Lets the plugin `probe` run a script, and returns its output. Fails if another packet arrives before the reply.
async fn ask(client: &mut Client, script: &str) -> String {
    ask_on(client, ROUTE, script).await
}

async fn ask_on(client: &mut Client, route: u8, script: &str) -> String {
    let reply = client.request(route, script.as_bytes()).await;
    assert_eq!(reply.status, 0, "{script}: {}", reply.text());
    reply.text().to_owned()
}

/// Runs a script that only reads again and again, until its output is as expected.
async fn ask_until(client: &mut Client, script: &str, expected: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = ask(client, script).await;
        if output == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{script}: {output:?} instead of {expected:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Asserts that the next packet is a push of the plugin `probe` with this number and this text.
async fn assert_push(client: &mut Client, seq: u32, text: &str) {
    let push = client.receive_any().await;
    assert_eq!((push.seq, push.route, push.flags, push.text()), (seq, ROUTE, 0, text), "{push:?}");
}

/// Waits until this generation of the plugin `probe` serves.
async fn generation_is(gateway: &Gateway, generation: f64) {
    gateway.metric_is("gateway_plugin_generation{plugin=\"probe\"}", generation).await;
}

/// Waits until the gateway has this number of sessions.
async fn sessions_are(gateway: &Gateway, sessions: f64) {
    eventually(&format!("{sessions} sessions"), || async {
        (gateway.metric("gateway_sessions").await.to_bits() == sessions.to_bits()).then_some(())
    })
    .await;
}
