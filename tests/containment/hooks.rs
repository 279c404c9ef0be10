//! Tests of plugins that misbehave when sessions begin, and of many sessions that end at once.

use crate::{ask, bystander::Bystander, crowd, probing};
use gateway_tests::{
    Client, Gateway, PATIENCE,
    wire::{UPGRADE, Wire},
};
use tokio::time::Instant;

/// The number of clients that ask for a session while the plugin misbehaves.
const REFUSED: u32 = 20;
/// The number of sessions that end at once.
const ENDED: usize = 2000;

/// A way to misbehave at every connect, the status and the text for the clients, and the reason that is counted.
type Way = (&'static str, u16, &'static str, &'static str);

const WAYS: [Way; 4] = [
    ("trap", 503, "the plugin failed", "plugin_unavailable"),
    ("loop", 503, "the plugin failed", "plugin_unavailable"),
    ("deny=403", 403, "probe says no", "denied_by_plugin"),
    ("deny=200", 503, "the plugin failed", "plugin_unavailable"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_misbehaves_at_each_connect_keeps_new_players_out_and_disturbs_no_session() {
    let gateway = Gateway::start(probing("")).await;
    let bystander = Bystander::start(&gateway).await;
    let mut player = Client::connect_to(gateway.address, "/ws?tag=3").await;
    for (generation, (way, status, text, reason)) in (2..).step_by(2).zip(WAYS) {
        let refused = format!("gateway_handshakes_refused_total{{reason=\"{reason}\"}}");
        let before = gateway.metric(&refused).await;
        reconfigure(&gateway, &format!("config: {{ on_connect: {way:?} }}"), generation).await;
        for _ in 0..REFUSED {
            assert_eq!(response(&gateway).await, (status, text.to_owned()), "{way}");
            assert_eq!(ask(&mut player, "say $tag").await, "3", "{way}");
        }
        gateway.metric_is(&refused, before + f64::from(REFUSED)).await;
        gateway.metric_is("gateway_sessions", 2.0).await;
        reconfigure(&gateway, "", generation + 1).await;
        gateway.client().await.assert_alive().await;
        gateway.metric_is("gateway_sessions", 2.0).await;
    }
    gateway.metric_is("gateway_plugin_quarantined{plugin=\"probe\"}", 0.0).await;
    bystander.finish().await;
}

async fn reconfigure(gateway: &Gateway, keys: &str, generation: u32) {
    gateway.reconfigure(&probing(keys));
    gateway.metric_is("gateway_plugin_generation{plugin=\"probe\"}", f64::from(generation)).await;
}

/// Asks for a session, and returns the status and the text of the answer.
async fn response(gateway: &Gateway) -> (u16, String) {
    let mut wire = Wire::connect(gateway.address).await;
    wire.send(UPGRADE.as_bytes()).await;
    let response = wire.response().await;
    (response.status, response.body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ends_of_2000_sessions_at_once_are_each_told_once_and_delay_nobody() {
    let gateway = Gateway::start(probing("")).await;
    let mut client = gateway.client().await;
    ask(&mut client, "put on-disconnect add %cause").await;
    let members = crowd::connect(&gateway, ENDED).await;
    let bystander = Bystander::start(&gateway).await;
    drop(members);
    told(&mut client, ENDED).await;
    gateway.metric_is("gateway_disconnections_total{reason=\"gone\"}", 2000.0).await;
    bystander.finish().await;
    // The bystander's end is the next one. If an end had been told twice, the number would be too large.
    told(&mut client, ENDED + 1).await;
}

/// Waits until the plugin was told exactly this number of ends.
async fn told(client: &mut Client, ends: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = ask(client, "get gone").await;
        if found == ends.to_string() {
            return;
        }
        assert!(Instant::now() < deadline, "{found} ends were told, and not {ends}");
    }
}
