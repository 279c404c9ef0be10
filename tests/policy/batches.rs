//! Tests of packets that arrive together. The plugin `fifth` decides on them in one call, and says in its answers how it
//! was called.

use crate::{ROUTE as PROBE, start as start_probe};
use gateway_tests::{Client, Gateway, Setup, eventually, fifth, header};
use std::iter;

/// The route of the plugin `fifth`.
const ROUTE: u8 = 0x7b;

async fn start_with(keys: &str) -> Gateway {
    let yaml = format!("plugins: {{ directory: plugins, settings: {{ fifth: {{ call_timeout_ms: 1000 }} }} }}\n{keys}");
    let gateway = Gateway::start(Setup { yaml, files: vec![("fifth.wasm", fifth())], ..Setup::default() }).await;
    decides_in_batches(&gateway).await;
    gateway
}

async fn start() -> Gateway {
    start_with("").await
}

/// Sends packets in one write, and returns the statuses and the texts of the replies, which come in the same order.
async fn ask_on(client: &mut Client, route: u8, payloads: &[&str]) -> Vec<(u16, String)> {
    let packet = |(seq, payload): (u32, &&str)| [&header(seq, route)[..], payload.as_bytes()].concat();
    client.send_messages((0..).zip(payloads).map(packet)).await;
    let mut replies = Vec::new();
    for seq in 0..payloads.len() as u32 {
        let reply = client.receive_any().await;
        assert_eq!((reply.route, reply.seq), (route, seq), "{reply:?}");
        replies.push((reply.status, reply.text().to_owned()));
    }
    replies
}

async fn ask(client: &mut Client, payloads: &[&str]) -> Vec<(u16, String)> {
    ask_on(client, ROUTE, payloads).await
}

fn ok(texts: &[&str]) -> Vec<(u16, String)> {
    texts.iter().map(|text| (0, (*text).to_owned())).collect()
}

/// Waits until the plugin decides on packets that arrive together in one call. Each new version is called singly at first.
async fn decides_in_batches(gateway: &Gateway) {
    let together = ok(&["x: user None, tag 0, together"; 2]);
    eventually("a call for two packets", || async {
        (ask(&mut gateway.client().await, &["x"; 2]).await == together).then_some(())
    })
    .await;
}

#[tokio::test]
async fn packets_that_arrive_together_are_decided_on_in_one_call() {
    let gateway = start().await;
    let mut client = gateway.client().await;
    let payloads: Vec<_> = (0..100).map(|i| format!("{}{i}", "x".repeat(i))).collect();
    let payloads: Vec<_> = payloads.iter().map(String::as_str).collect();
    let replies = ask(&mut client, &payloads).await;
    for ((status, text), payload) in iter::zip(&replies, &payloads) {
        assert_eq!((*status, text.split(": ").next()), (0, Some(*payload)));
    }
    let together = replies.iter().filter(|(_, text)| text.ends_with("together")).count();
    assert!(together >= 90, "{together} of 100 are decided on together");
    // Each packet is a call for the metrics.
    let mut before = gateway.metric("gateway_plugin_calls_total{plugin=\"fifth\",outcome=\"ok\"}").await;
    ask(&mut client, &["x"; 16]).await;
    before += 16.0;
    gateway.metric_is("gateway_plugin_calls_total{plugin=\"fifth\",outcome=\"ok\"}", before).await;
    gateway.metric_is("gateway_plugin_call_seconds_count{plugin=\"fifth\"}", before).await;
    assert_eq!(ask(&mut client, &["x"]).await, ok(&["x: user None, tag 0, alone"]));
}

#[tokio::test]
async fn each_packet_sees_what_those_before_it_have_changed() {
    let gateway = start().await;
    let mut client = gateway.client().await;
    let replies = ask(&mut client, &["a", "bind 7", "b", "tag 3", "c", "reject", "reply", "d"]).await;
    let said = |(status, text): (u16, String)| (status, text.rsplit_once(", ").map_or("", |(text, _)| text).to_owned());
    let expected = [
        (0, "a: user None, tag 0"),
        (0, "bind 7: user None, tag 0"),
        (0, "b: user Some(7), tag 0"),
        (0, "tag 3: user Some(7), tag 0"),
        (0, "c: user Some(7), tag 3"),
        (300, ""),
        (256, ""),
        (0, "d: user Some(7), tag 3"),
    ];
    let expected: Vec<_> = expected.into_iter().map(|(status, text)| (status, text.to_owned())).collect();
    assert_eq!(replies.into_iter().map(said).collect::<Vec<_>>(), expected);
    // A second user is refused, and the packets behind it are served.
    let replies = ask(&mut client, &["bind 8", "e"]).await;
    assert_eq!(replies[0].0, 6, "{replies:?}");
    assert!(replies[1].1.starts_with("e: user Some(7), tag 3"), "{replies:?}");
}

#[tokio::test]
async fn each_packet_reads_the_state_that_the_one_before_it_has_written() {
    let gateway = start().await;
    let mut client = gateway.client().await;
    let sums: Vec<_> = (1..=100).map(|sum: u32| sum.to_string()).collect();
    let sums: Vec<_> = sums.iter().map(String::as_str).collect();
    assert_eq!(ask(&mut client, &["add 1"; 100]).await, ok(&sums));
    // A rejection depends on what the plugin has read as well.
    for (change, status) in [("add 5", 301), ("add -5", 0)] {
        let replies = ask(&mut gateway.client().await, &[change, "below 105"]).await;
        assert_eq!((replies[0].0, replies[1].0), (0, status), "{replies:?}");
    }
}

#[tokio::test]
async fn packets_that_write_and_do_not_read_are_decided_on_together() {
    let gateway = start().await;
    let mut client = gateway.client().await;
    let expected = ["put 1: user None, tag 0, together", "put 2: user None, tag 0, together"];
    assert_eq!(ask(&mut client, &["put 1", "put 2"]).await, ok(&expected));
}

#[tokio::test]
async fn packets_that_arrive_together_are_answered_although_their_answers_fill_the_send_buffer() {
    let gateway = start().await;
    let mut client = gateway.client().await;
    for _ in 0..3 {
        let payloads: Vec<_> = (0..64).map(|i| format!("{i:0>1000}")).collect();
        let payloads: Vec<_> = payloads.iter().map(String::as_str).collect();
        let replies = ask(&mut client, &payloads).await;
        assert!(iter::zip(&replies, &payloads).all(|((_, text), payload)| text.starts_with(payload)));
    }
}

/// Asserts that packets are served singly if they have this one among them, as are those of all sessions for a while, and
/// then in batches again. Returns what the gateway has logged of it.
async fn is_served_singly(payload: &str) -> String {
    let gateway = start().await;
    let mut client = gateway.client().await;
    let alone = |payload: &str| format!("{payload}: user None, tag 0, alone");
    let expected = [alone("x"), alone(payload), alone("x")];
    let mut other = gateway.client().await;
    assert_eq!(ask(&mut client, &["x", payload, "x"]).await, ok(&expected.each_ref().map(String::as_str)));
    // The cause may be any of the packets, so the whole plugin is called singly, and the workers are not kept busy.
    assert_eq!(ask(&mut other, &["x"; 2]).await, ok(&[&*alone("x"), &alone("x")]));
    let line = gateway.logged("`on-packets` failed, `on-packet` is called instead").await;
    assert_eq!((&line["level"], &line["fields"]["plugin"]), (&"WARN".into(), &"fifth".into()), "{line}");
    // It counts nowhere.
    for outcome in ["trap", "invalid"] {
        let calls = format!("gateway_plugin_calls_total{{plugin=\"fifth\",outcome=\"{outcome}\"}}");
        gateway.metric_is(&calls, 0.0).await;
    }
    decides_in_batches(&gateway).await;
    line["fields"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_batch_that_traps_is_served_packet_by_packet() {
    let logged = is_served_singly("trap").await;
    assert!(logged.contains("it is told to trap") || logged.contains("unreachable"), "{logged}");
}

#[tokio::test]
async fn a_batch_without_a_decision_for_each_packet_is_served_packet_by_packet() {
    let logged = is_served_singly("short").await;
    assert!(logged.ends_with("`on-packets` answered with 2 decisions on 3 packets"), "{logged}");
}

#[tokio::test]
async fn what_a_plugin_logs_is_logged_once() {
    let gateway = start().await;
    let mut client = gateway.client().await;
    let payloads: Vec<_> = (1..=20).map(|i| format!("log {i}")).collect();
    let payloads: Vec<_> = payloads.iter().map(String::as_str).collect();
    ask(&mut client, &payloads).await;
    gateway.logged("logged 20").await;
    let lines: Vec<_> = gateway.log_lines().iter().map(ToString::to_string).collect();
    for i in 1..=20 {
        let text = format!("\"logged {i}\"");
        assert_eq!(lines.iter().filter(|line| line.contains(&text)).count(), 1, "{text}");
    }
}

#[tokio::test]
async fn the_limits_of_a_session_hold_for_packets_that_arrive_together() {
    let gateway = start_with("limits: { packets_per_s: 100 }").await;
    let mut client = gateway.client().await;
    let payloads: Vec<_> = (0..300).map(|i| i.to_string()).collect();
    let payloads: Vec<_> = payloads.iter().map(String::as_str).collect();
    let replies = ask(&mut client, &payloads).await;
    // The session may send twice its limit at once, and a few more in the time of the test.
    let served: Vec<_> = iter::zip(&replies, &payloads).filter(|((status, _), _)| *status == 0).collect();
    assert!((200..260).contains(&served.len()), "{}", served.len());
    assert!(served.iter().all(|((_, text), payload)| text.split(": ").next() == Some(payload)), "{served:?}");
    assert!(served.iter().any(|((_, text), _)| text.ends_with("together")), "{served:?}");
    assert!(replies.iter().all(|(status, _)| [0, 7].contains(status)), "{replies:?}");
}

#[tokio::test]
async fn no_packet_is_served_behind_one_that_ends_the_session() {
    let gateway = start().await;
    let mut client = gateway.client().await;
    let packet = |payload: &str| [&header(0, ROUTE)[..], payload.as_bytes()].concat();
    client.send_messages(["x", "close", "add 1", "add 1"].map(packet)).await;
    assert!(client.receive_any().await.text().starts_with("x: "));
    assert_eq!(u16::from(client.closed().await.unwrap().code), 4000);
    assert_eq!(ask(&mut gateway.client().await, &["add 0"]).await, ok(&["0"]));
}

#[tokio::test]
async fn the_packets_behind_a_slow_one_keep_their_order() {
    let gateway = start().await;
    let mut client = gateway.client().await;
    for _ in 0..3 {
        let replies = ask(&mut client, &["a", "slow", "b", "c", "slow", "d"]).await;
        let texts: Vec<_> = replies.iter().filter_map(|(_, text)| text.split(": ").next()).collect();
        assert_eq!(texts, ["a", "slow", "b", "c", "slow", "d"]);
    }
    decides_in_batches(&gateway).await;
}

#[tokio::test]
async fn a_packet_that_traps_has_no_effect_on_those_that_arrive_with_it() {
    let gateway = start_probe().await;
    let mut client = gateway.client().await;
    // A new version is called singly at first.
    for _ in 0..20 {
        assert_eq!(ask_on(&mut client, PROBE, &["say 0"]).await, ok(&["0"]));
    }
    let replies = ask_on(&mut client, PROBE, &["say 1", "say 2", "trap", "say 3", "say 4"]).await;
    gateway.logged("`on-packets` failed, `on-packet` is called instead").await;
    assert_eq!(replies[2].0, 8, "{replies:?}");
    let others: Vec<_> = [0, 1, 3, 4].map(|i| replies[i].clone()).into();
    assert_eq!(others, ok(&["1", "2", "3", "4"]));
    gateway.metric_is("gateway_plugin_calls_total{plugin=\"probe\",outcome=\"trap\"}", 1.0).await;
}
