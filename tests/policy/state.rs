//! Tests of the state of plugins: calls are transactions, and the entries outlive traps, reloads and files.

use crate::{ROUTE, ZEBRA, ask, ask_on, ask_until, connect, generation_is, setup, start, start_both};
use futures_util::future::join_all;
use gateway_tests::{Client, Gateway, Setup, probe, probe_as, put};
use std::fs;

const CLIENTS: usize = 8;
const CALLS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_that_8_clients_increment_at_once_has_the_exact_sum() {
    let gateway = start().await;
    let mut clients = join_all((0..CLIENTS).map(|_| connect(&gateway, ""))).await;
    let counting = clients.iter_mut().map(async |client| {
        client.send_messages((1..=CALLS).map(|_| [&gateway_tests::header(0, ROUTE)[..], b"add n"].concat())).await;
        let mut counted = Vec::new();
        for _ in 0..CALLS {
            let reply = client.receive().await;
            assert_eq!(reply.status, 0, "{}", reply.text());
            counted.push(reply.text().parse::<usize>().unwrap());
        }
        counted
    });
    let counted = join_all(counting).await;
    assert!(counted.iter().all(|counted| counted.is_sorted()), "a client's own calls are made in order");
    let mut counted = counted.concat();
    counted.sort_unstable();
    assert_eq!(counted, (1..=CLIENTS * CALLS).collect::<Vec<_>>());
    assert_eq!(ask(&mut clients[0], "get n").await, (CLIENTS * CALLS).to_string());
}

#[tokio::test]
async fn entries_are_written_read_listed_and_removed() {
    let gateway = start().await;
    let mut client = connect(&gateway, "").await;
    // A call does not see its own writes.
    assert_eq!(ask(&mut client, "put a 1; put ab 2; put b 3; put ac 4; put ac 5; get a").await, "none");
    assert_eq!(ask(&mut client, "list a; count ; get ac; get c").await, "a=1,ab=2,ac=5 4 5 none");
    ask(&mut client, "remove ab; put a ; remove c").await;
    assert_eq!(ask(&mut client, "list a").await, "a=,ac=5");
    let key = "é".repeat(128);
    assert_eq!(ask(&mut client, &format!("put {key} long; say {}", key.len())).await, "256");
    assert_eq!(ask(&mut client, &format!("get {key}")).await, "long");
}

#[tokio::test]
async fn an_entry_with_a_time_to_live_is_removed_after_it() {
    let gateway = start().await;
    let mut client = connect(&gateway, "").await;
    ask(&mut client, "put-for 3600000 long v; put-for 300 short v; put-for 0 never v; put-for 1 kept v; put kept v")
        .await;
    assert_eq!(ask(&mut client, "get never").await, "none");
    ask_until(&mut client, "list ", "kept=v,long=v").await;
}

#[tokio::test]
async fn the_states_of_two_plugins_are_separate() {
    let gateway = start_both().await;
    let mut client = connect(&gateway, "").await;
    ask(&mut client, "put k probe").await;
    assert_eq!(ask_on(&mut client, ZEBRA, "get k; put k zebra").await, "none");
    assert_eq!(ask(&mut client, "get k").await, "probe");
}

#[tokio::test]
async fn state_survives_a_trap_a_reload_a_new_version_and_the_return_of_the_file() {
    let gateway = start().await;
    let mut client = connect(&gateway, "").await;
    ask(&mut client, "put k v; put-for 3600000 l w").await;
    assert_eq!(client.request(ROUTE, b"put k lost; remove l; trap").await.status, 8);
    assert_entries(&mut client).await;
    gateway.reconfigure(&setup("call_timeout_ms: 30"));
    generation_is(&gateway, 2.0).await;
    assert_entries(&mut client).await;
    put(&gateway.plugin("probe"), &probe_as("probe", 0, false));
    generation_is(&gateway, 3.0).await;
    assert_entries(&mut client).await;
    fs::remove_file(gateway.plugin("probe")).unwrap();
    gateway.logged("\"message\":\"plugin removed\",\"plugin\":\"probe\"").await;
    put(&gateway.plugin("probe"), &probe());
    generation_is(&gateway, 4.0).await;
    assert_entries(&mut client).await;
}

async fn assert_entries(client: &mut Client) {
    assert_eq!(ask(client, "list ").await, "k=v,l=w");
}

#[tokio::test]
async fn a_version_with_another_state_format_starts_empty_and_so_does_the_old_one_that_returns() {
    let gateway = start().await;
    let mut client = connect(&gateway, "tag=3").await;
    ask(&mut client, "put k old").await;
    put(&gateway.plugin("probe"), &probe_as("probe", 1, true));
    generation_is(&gateway, 2.0).await;
    // Tags do not depend on the format.
    assert_eq!(ask(&mut client, "list ; say $tag; put k new").await, " 3");
    assert_eq!(ask(&mut client, "get k").await, "new");
    put(&gateway.plugin("probe"), &probe());
    generation_is(&gateway, 3.0).await;
    assert_eq!(ask(&mut client, "count ").await, "0");
}

#[tokio::test]
async fn a_call_whose_writes_do_not_fit_is_answered_with_status_5_and_does_nothing() {
    let gateway = Gateway::start(setup("state_mb: 1")).await;
    let mut client = connect(&gateway, "").await;
    // An entry takes the bytes of its key and its value, and 64 more.
    let max = (1 << 20) - 64 - 1;
    let too_much = format!("join 5; tag 3; put k x*{}; measure 0 1; publish news hello", max + 1);
    let reply = client.request(ROUTE, too_much.as_bytes()).await;
    let why = "the plugin's state would have 1048577 bytes, and 1048576 are the most (`state_mb`)";
    assert_eq!((reply.status, reply.text()), (5, why));
    let read = "say $tag; count ; deliver group:5 always nobody is there";
    assert_eq!(ask(&mut client, read).await, "0 0");
    gateway.metric_is("gateway_custom_probe_events_total", 0.0).await;
    gateway.metric_is("gateway_bus_published_total", 0.0).await;
    gateway.metric_is("gateway_routing_errors_total{reason=\"unavailable\"}", 1.0).await;

    ask(&mut client, &format!("put k x*{max}")).await;
    let reply = client.request(ROUTE, b"put l x").await;
    let why = "the plugin's state would have 1048642 bytes, and 1048576 are the most (`state_mb`)";
    assert_eq!((reply.status, reply.text()), (5, why));
    // Writes that make the state no larger always fit, and removals make room in the same call.
    ask(&mut client, "put k y; put l x").await;
    assert_eq!(ask(&mut client, "list ").await, "k=y,l=x");
}

#[tokio::test]
async fn entries_that_have_expired_make_room() {
    let gateway = Gateway::start(setup("state_mb: 1")).await;
    let mut client = connect(&gateway, "").await;
    ask(&mut client, "put-for 50 k x*1000000").await;
    ask_until(&mut client, "count ", "0").await;
    assert_eq!(ask(&mut client, "put l x*1000000; say done").await, "done");
}

#[tokio::test]
async fn a_call_reads_a_bounded_number_of_entries() {
    let gateway = Gateway::start(Setup { ..setup("call_timeout_ms: 5000") }).await;
    let mut client = connect(&gateway, "").await;
    assert_eq!(ask(&mut client, "repeat 9999 count none; say done").await.split(' ').count(), 10_000);
    let reply = client.request(ROUTE, b"repeat 10001 get none").await;
    assert_eq!((reply.status, reply.text()), (8, "the plugin failed"));
    gateway.logged("a call may read at most 10000 entries and attributes").await;
}
