//! Tests of messages that arrive together: several threads call the plugins, and what they decide is carried out in the
//! order of the messages. The bus is the embedded one, which hands over what one call has published in one go.

use crate::{ask, assert_push, connect, sessions_are, setup, start};
use futures_util::future::join_all;
use gateway_tests::{Client, Gateway};

/// The number of messages of a burst. It is more than a thread decides on at once, many times over.
const BURST: usize = 250;

/// Messages that take so long that the messages after them in their burst are decided on early.
const LONG: &str = "repeat 20 publish news spin 1";

/// Starts a gateway with the client of user 7, who hears `news`.
async fn listener() -> (Gateway, Client) {
    let gateway = Gateway::start(setup("call_timeout_ms: 5000")).await;
    let mut client = connect(&gateway, "user=7").await;
    ask(&mut client, "listen news").await;
    (gateway, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deliveries_of_a_burst_arrive_in_the_order_of_its_messages() {
    let (_gateway, mut client) = listener().await;
    for round in 0..20 {
        ask(&mut client, &format!("repeat {BURST} publish news deliver user:7 always #")).await;
        for i in 0..BURST {
            assert_push(&mut client, u32::try_from(round * BURST + i + 1).unwrap(), &i.to_string()).await;
        }
    }
}

#[tokio::test]
async fn the_messages_of_a_burst_change_the_state_one_after_the_other() {
    let (_gateway, mut client) = listener().await;
    for round in 1..=20 {
        let last = "publish news put last done|deliver user:7 always done";
        ask(&mut client, &format!("put last none; repeat {BURST} publish news add n|put last #; {last}")).await;
        assert_push(&mut client, round, "done").await;
        assert_eq!(ask(&mut client, "get n; get last").await, format!("{} done", round as usize * BURST));
    }
}

#[tokio::test]
async fn a_message_that_makes_the_plugin_fail_leaves_the_others_of_its_burst_alone() {
    let (gateway, mut client) = listener().await;
    let some = "repeat 100 publish news deliver user:7 always #";
    ask(&mut client, &format!("{some}; publish news trap; {some}")).await;
    for i in 0..200 {
        assert_push(&mut client, i + 1, &(i % 100).to_string()).await;
    }
    gateway.metric_is("gateway_plugin_calls_total{outcome=\"trap\",plugin=\"probe\"}", 1.0).await;
}

#[tokio::test]
async fn a_message_that_takes_long_is_not_overtaken_by_later_ones_of_its_burst() {
    let (_gateway, mut client) = listener().await;
    let some = |times| format!("repeat {times} publish news deliver user:7 always #");
    for round in 0..3 {
        let slow = "publish news spin 100|deliver user:7 always slow";
        ask(&mut client, &format!("{}; {slow}; {}", some(90), some(100))).await;
        let texts = (0..90).map(|i| i.to_string()).chain(["slow".to_owned()]).chain((0..100).map(|i| i.to_string()));
        for (i, text) in texts.enumerate() {
            assert_push(&mut client, u32::try_from(round * 191 + i + 1).unwrap(), &text).await;
        }
    }
}

#[tokio::test]
async fn a_message_for_many_sessions_is_not_overtaken_by_later_ones_of_its_burst() {
    const MEMBERS: usize = 100;
    const EACH: usize = 25;
    let gateway = start().await;
    let mut members = join_all((0..MEMBERS).map(|_| connect(&gateway, "user=7&do=join+5;listen+news"))).await;
    sessions_are(&gateway, MEMBERS as f64).await;
    let few = |text| format!("repeat 50 publish news deliver user:7 always {text} #");
    let many = format!("publish news repeat {EACH} deliver group:5 always many");
    let script = format!("{}; {many}; {}", few("before"), few("after"));
    let mut publisher = connect(&gateway, "").await;
    ask(&mut publisher, &script).await;
    for member in &mut members {
        let expected = (0..50).map(|i| format!("before {i}"));
        let expected = expected.chain((0..EACH).map(|_| "many".to_owned()));
        for (seq, text) in (1..).zip(expected.chain((0..50).map(|i| format!("after {i}")))) {
            assert_push(member, seq, &text).await;
        }
    }
}

#[tokio::test]
async fn a_rejection_that_an_earlier_message_of_the_burst_prevents_has_no_effect() {
    let (gateway, mut client) = listener().await;
    for round in 0..20 {
        let room = format!("publish news put room/{round} x; publish news need room/{round}|deliver user:7 always #");
        let room = room.replace('#', &round.to_string());
        ask(&mut client, &format!("{LONG}; {room}; repeat 100 publish news spin 0")).await;
        assert_push(&mut client, round + 1, &round.to_string()).await;
    }
    assert_eq!(gateway.metric("gateway_plugin_calls_total{outcome=\"rejected\",plugin=\"probe\"}").await, 0.0);
}

#[tokio::test]
async fn a_trap_that_an_earlier_message_of_the_burst_prevents_has_no_effect() {
    let (gateway, mut client) = listener().await;
    for round in 0..20 {
        let room = format!("publish news put room/{round} x; publish news must room/{round}|deliver user:7 always #");
        let room = room.replace('#', &round.to_string());
        ask(&mut client, &format!("{LONG}; {room}; repeat 100 publish news spin 0")).await;
        assert_push(&mut client, round + 1, &round.to_string()).await;
    }
    assert_eq!(gateway.metric("gateway_plugin_calls_total{outcome=\"trap\",plugin=\"probe\"}").await, 0.0);
}

#[tokio::test]
async fn every_message_of_a_burst_that_is_rejected_counts_once() {
    let (gateway, mut client) = listener().await;
    let calls = "gateway_plugin_calls_total{outcome=\"ok\",plugin=\"probe\"}";
    let seconds = "gateway_plugin_call_seconds_count{plugin=\"probe\"}";
    let before = (gateway.metric(calls).await, gateway.metric(seconds).await);
    let many = "repeat 100 publish news need nothing";
    ask(&mut client, &format!("{LONG}; {many}; publish news deliver user:7 always done")).await;
    assert_push(&mut client, 1, "done").await;
    // The packet, the long messages and the last one.
    gateway.metric_is(calls, before.0 + 22.0).await;
    gateway.metric_is("gateway_plugin_calls_total{outcome=\"rejected\",plugin=\"probe\"}", 100.0).await;
    gateway.metric_is(seconds, before.1 + 122.0).await;
}

#[tokio::test]
async fn the_bound_on_deliveries_holds_for_members_that_an_earlier_message_of_the_burst_added() {
    let gateway = Gateway::start(setup("call_timeout_ms: 5000, pushes: 5")).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(connect(&gateway, "user=7").await);
    }
    let mut joins = Vec::new();
    for client in &mut clients {
        let session = ask(client, "say $session").await;
        joins.push(format!("join 5 {session}"));
    }
    let client = &mut clients[0];
    ask(client, "listen news").await;
    // The two deliveries reach six sessions.
    let burst =
        format!("publish news {}; publish news deliver group:5 always x|deliver group:5 always y", joins.join("|"));
    ask(client, &format!("{LONG}; {burst}; repeat 100 publish news spin 0")).await;
    gateway.metric_is("gateway_messages_dropped_total{reason=\"too_many_pushes\"}", 1.0).await;
}
