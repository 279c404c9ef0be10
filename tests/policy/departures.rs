//! Tests of `on-disconnect`: each session's end is told once, with its cause and what the session had.

use crate::{ROUTE, ask, ask_until, connect, sessions_are, setup, start};
use futures_util::{SinkExt, future::join_all};
use gateway_tests::{Client, Gateway, Setup, probe, put};
use std::collections::BTreeMap;
use tokio_tungstenite::tungstenite::Message;

/// Lets the plugin write an entry at the end of each session.
async fn record(client: &mut Client) {
    ask(client, "put on-disconnect put gone/%session %cause %tag %user").await;
}

/// Waits until this many ends are recorded, and returns them by session.
async fn recorded(client: &mut Client, count: usize) -> BTreeMap<String, String> {
    ask_until(client, "count gone/", &count.to_string()).await;
    let list = ask(client, "list gone/").await;
    let entry = |entry: &str| {
        let (key, value) = entry.split_once('=').unwrap();
        (key.strip_prefix("gone/").unwrap().to_owned(), value.to_owned())
    };
    list.split(',').map(entry).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_200_sessions_that_end_at_once_is_told_with_its_cause_its_tag_and_its_user() {
    let gateway = start().await;
    let mut client = connect(&gateway, "").await;
    record(&mut client).await;
    let queries: Vec<_> = (0..200).map(|i| format!("tag={i}&user={}", 1000 + i)).collect();
    let mut clients = join_all(queries.iter().map(|query| connect(&gateway, query))).await;
    // The last packet changes the tag of every third session.
    join_all(clients.iter_mut().step_by(3).map(|client| ask(client, "tag 5000"))).await;
    let mut expected = BTreeMap::new();
    for (i, client) in clients.iter().enumerate() {
        let cause = ["closed", "gone", "text", "policy"][i % 4];
        let tag = if i % 3 == 0 { 5000 } else { i };
        expected.insert(client.welcome.session_id.clone(), format!("{cause} {tag} {}", 1000 + i));
    }
    join_all(clients.into_iter().enumerate().map(|(i, client)| leave(client, i % 4))).await;
    assert_eq!(recorded(&mut client, 200).await, expected);
    sessions_are(&gateway, 1.0).await;
}

async fn leave(mut client: Client, way: usize) {
    match way {
        0 => client.socket.close(None).await.unwrap(),
        1 => drop(client),
        2 => client.socket.send(Message::text("bye")).await.unwrap(),
        _ => {
            client.send(ROUTE, b"end me 4000 bye").await;
        }
    }
}

#[tokio::test]
async fn a_session_that_has_ended_holds_nothing_any_more() {
    let gateway = start().await;
    let mut client = connect(&gateway, "").await;
    // If the session were still in the group, the push to the group would be delivered and not undelivered.
    let script = "put on-disconnect deliver group:5 always gone|attribute name|put gone yes";
    ask(&mut client, script).await;
    drop(connect(&gateway, "attribute=name:anna&do=join+5").await);
    ask_until(&mut client, "get gone", "yes").await;
    gateway.metric_is("gateway_deliveries_total{outcome=\"not_here\"}", 1.0).await;
    gateway.metric_is("gateway_deliveries_total{outcome=\"delivered\"}", 0.0).await;
}

#[tokio::test]
async fn a_session_that_began_before_the_plugin_was_loaded_is_told_as_well() {
    let gateway = Gateway::start(Setup { files: Vec::new(), ..setup("") }).await;
    let early = gateway.client().await;
    let id = early.welcome.session_id.clone();
    put(&gateway.plugin("probe"), &probe());
    gateway.logged("plugin loaded\",\"plugin\":\"probe").await;
    let mut client = connect(&gateway, "").await;
    record(&mut client).await;
    drop(early);
    assert_eq!(recorded(&mut client, 1).await, BTreeMap::from([(id, "gone 0 none".to_owned())]));
}

#[tokio::test]
async fn the_call_is_not_made_again_after_a_trap_and_waits_for_the_end_of_a_quarantine() {
    let gateway = start().await;
    let mut client = connect(&gateway, "").await;
    ask(&mut client, "put on-disconnect trap").await;
    drop(connect(&gateway, "").await);
    let traps = "gateway_plugin_calls_total{plugin=\"probe\",outcome=\"trap\"}";
    gateway.metric_is(traps, 1.0).await;
    gateway.logged("the end of a session was not handled").await;
    record(&mut client).await;

    let mut others =
        join_all((0..5).map(|i| connect(&gateway, ["tag=1", "tag=2", "tag=3", "tag=4", "tag=5"][i]))).await;
    for other in &mut others {
        assert_eq!(other.request(ROUTE, b"trap").await.status, 8);
    }
    gateway.metric_is("gateway_plugin_quarantined{plugin=\"probe\"}", 1.0).await;
    drop(others);
    let ends = recorded_after_quarantine(&gateway, &mut client).await;
    assert_eq!(ends, (1..=5).map(|tag| format!("gone {tag} none")).collect::<Vec<_>>());
    gateway.metric_is(traps, 6.0).await;
}

/// Waits until the plugin has left its quarantine, and returns the recorded ends, sorted.
async fn recorded_after_quarantine(gateway: &Gateway, client: &mut Client) -> Vec<String> {
    gateway.logged("plugin released from quarantine").await;
    let mut ends: Vec<_> = recorded(client, 5).await.into_values().collect();
    ends.sort();
    ends
}
