//! Tests of plugins that never rest: timers without end, conflicts at every call, sessions that are ended again and
//! again, and plugins that feed each other over the bus.

use crate::{
    ask,
    bystander::{Bystander, percentile},
    probing,
    quickness::assert_stays_quick,
};
use futures_util::future::join_all;
use gateway_tests::{Client, Gateway, PATIENCE, Setup, chat_request, eventually, probe_as};
use std::time::Duration;
use tokio::time::{self, Instant};

/// The number of timers that are due all the time.
const TIMERS: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timers_that_are_due_all_the_time_delay_no_other_route() {
    assert_stays_quick("timers", || async {
        let gateway = Gateway::start(probing("")).await;
        let quiet = latency(&gateway).await;
        let mut client = gateway.client().await;
        ask(&mut client, &format!("repeat {TIMERS} put on-wake/# put tick/# %now|wake # 0")).await;
        ask(&mut client, &format!("repeat {TIMERS} wake # 0")).await;
        let calls = "gateway_plugin_calls_total{plugin=\"probe\",outcome=\"ok\"}";
        let before = gateway.metric(calls).await;
        let busy = latency(&gateway).await;
        let made = gateway.metric(calls).await - before;
        assert!(made > 1000.0, "only {made} calls were made");
        assert_eq!(ask(&mut client, "count tick/").await, TIMERS.to_string());
        (quiet, busy)
    })
    .await;
}

/// Returns the 99th percentile of the latency of a heartbeat.
async fn latency(gateway: &Gateway) -> Duration {
    let bystander = Bystander::start(gateway).await;
    time::sleep(Duration::from_secs(1)).await;
    percentile(&bystander.finish().await, 99)
}

/// The number of clients, and the number of calls that each makes.
const CLIENTS: usize = 4;
const CALLS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_conflict_every_time_are_all_served_in_the_end_and_none_counts_twice() {
    let gateway = Gateway::start(probing("")).await;
    let bystander = Bystander::start(&gateway).await;
    let mut clients = join_all((0..CLIENTS).map(|_| gateway.client())).await;
    let mut other = gateway.client().await;
    // The timers change the sum while the calls of the clients run.
    ask(&mut other, "repeat 10 put on-wake/# add sum|add ticks|wake # 0").await;
    ask(&mut other, "repeat 10 wake # 0").await;
    join_all(clients.iter_mut().map(async |client| {
        for _ in 0..CALLS {
            ask(client, "add sum; repeat 300 get nothing; add calls").await;
        }
    }))
    .await;
    ask(&mut other, "repeat 10 remove on-wake/#").await;
    // A timer without an entry is due once more and is not set again.
    let sum = |list: String| -> Vec<u64> { list.split(' ').map(|number| number.parse().unwrap()).collect() };
    let counted = sum(ask(&mut other, "get calls; get ticks; get sum").await);
    assert_eq!(counted[0], (CLIENTS * CALLS) as u64);
    assert!(counted[1] > 0, "the timers were never due");
    assert_eq!(counted[0] + counted[1], counted[2]);
    bystander.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_ends_its_sessions_in_a_loop_ends_no_others() {
    let gateway = Gateway::start(probing("")).await;
    let bystander = Bystander::start(&gateway).await;
    let mut client = gateway.client().await;
    ask(&mut client, "put on-wake/1 end group:5 4000 out|wake 1 0; wake 1 0").await;
    for _ in 0..100 {
        let mut member = Client::connect_to(gateway.address, "/ws?do=join+5").await;
        let frame = member.closed().await.expect("a close code");
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4000, "out"));
    }
    gateway.metric_is("gateway_disconnections_total{reason=\"policy\"}", 100.0).await;
    assert_eq!(ask(&mut client, "say alive").await, "alive");
    bystander.finish().await;
}

/// The maximum number of publishes in a cycle that one plugin makes per second, and in one burst.
const LOOPED_PER_S: f64 = 100.0;

/// Returns a setup with the plugins `ping` and `pong`. For each message, each publishes two for the other one.
fn feeding_each_other() -> Setup {
    let settings = "ping: { routes: [0x71], config: { topics: [a], on_message: repeat 2 forward b } }, \
                    pong: { routes: [0x72], config: { topics: [b], on_message: repeat 2 forward a } }";
    let yaml = format!("games: [{{ id: mmo }}]\nplugins: {{ directory: plugins, settings: {{ {settings} }} }}");
    let files = vec![("ping.wasm", probe_as("ping", 0, true)), ("pong.wasm", probe_as("pong", 0, true))];
    Setup { yaml, files, plugins: vec!["chat", "system", "demo-chat"], ..Setup::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_plugins_that_feed_each_other_over_the_bus_are_limited_and_named() {
    let gateway = Gateway::start(feeding_each_other()).await;
    let (mut attacker, mut player) = (gateway.client().await, gateway.client().await);
    let began = Instant::now();
    assert_eq!(attacker.request(0x71, b"publish a x").await.status, 0);
    let refused = async |plugin| {
        let metric = "gateway_plugin_publishes_refused_total";
        gateway.metric(&format!("{metric}{{plugin=\"{plugin}\",reason=\"publish_loop\"}}")).await
    };
    eventually("the loop is found", || async { (refused("ping").await + refused("pong").await > 0.0).then_some(()) })
        .await;
    const REQUESTS: u32 = 200;
    for _ in 0..REQUESTS {
        player.send(1, &chat_request("mmo", 1, "x")).await;
        let push = player.receive().await;
        assert_eq!((push.route, push.flags, push.status), (1, 0, 0), "{push:?}");
    }
    let line = gateway.logged("publishes of the plugin refused").await;
    let fields = &line["fields"];
    let found = (fields["plugin"].as_str().unwrap(), fields["topic"].as_str().unwrap());
    assert!([("ping", "b"), ("pong", "a")].contains(&found), "{line}");
    assert_eq!(fields["reason"], "publish_loop");
    // Each request of the player leads to two publishes.
    let looped = gateway.metric("gateway_bus_published_total").await - f64::from(2 * REQUESTS);
    // The clock of the limit counts whole milliseconds, so it may be one ahead.
    let elapsed = began.elapsed() + Duration::from_millis(1);
    let most = 1.0 + 2.0 * LOOPED_PER_S * (1.0 + elapsed.as_secs_f64());
    assert!(looped <= most, "{looped} publishes in {:?}", began.elapsed());
    let dropped = gateway.metric("gateway_messages_dropped_total{reason=\"publish_loop\"}").await;
    assert!(dropped > 0.0);
    assert!(began.elapsed() < PATIENCE);
}
