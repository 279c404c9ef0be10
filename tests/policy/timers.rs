//! Tests of timers: there is one for each number in the whole gateway, and it is due once, in order, and never early.

use crate::{ROUTE, ZEBRA, ask, ask_on, ask_until, assert_push, connect, generation_is, setup, start, start_both};
use gateway_tests::{Client, PATIENCE, probe, probe_as, put};
use std::{fs, time::Duration};
use tokio::time::{Instant, sleep};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_is_due_once_in_the_whole_gateway_however_many_sessions_set_it() {
    let gateway = start().await;
    let mut client = connect(&gateway, "").await;
    ask(&mut client, "put on-wake/1 add fired; put on-wake/2 put done yes").await;
    for _ in 0..8 {
        // The time is so long that the timer is not due before the last client has set it.
        ask(&mut connect(&gateway, "").await, "wake 1 4990; wake 1 5000").await;
    }
    ask_until(&mut client, "get fired", "1").await;
    // The second timer is due long after any second time of the first one.
    ask(&mut client, "wake 2 200").await;
    ask_until(&mut client, "get done", "yes").await;
    assert_eq!(ask(&mut client, "get fired").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_that_is_set_again_or_cancelled_is_not_due_at_the_old_time() {
    let gateway = start().await;
    let mut client = connect(&gateway, "").await;
    let entries = "put on-wake/1 add one; put on-wake/2 add two; put on-wake/3 put done yes";
    let timers = "wake 1 3000; wake 2 3000; wake 3 3000; wake 1 3600000; cancel 2; cancel 4";
    ask(&mut client, &format!("{entries}; {timers}")).await;
    let began = Instant::now();
    ask(&mut client, "wake 3 4000").await;
    ask_until(&mut client, "get done", "yes").await;
    assert!(began.elapsed() >= Duration::from_millis(3990), "the third timer was due at its old time");
    assert_eq!(ask(&mut client, "get one; get two").await, "none none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timers_are_due_in_the_order_of_their_times_and_never_early() {
    const KEYS: [u64; 20] = [19, 1, 18, 2, 17, 3, 16, 4, 15, 5, 14, 6, 13, 7, 12, 8, 11, 9, 10, 0];
    // One call sets all timers, one after the other. The time between two keys is far longer than that takes.
    const MS_PER_KEY: u64 = 100;
    let gateway = start().await;
    let mut client = connect(&gateway, "do=join+5").await;
    ask(&mut client, "repeat 20 put on-wake/# deliver group:5 always %key %now").await;
    let timers: String = KEYS.iter().map(|key| format!("wake {key} {};", key * MS_PER_KEY)).collect();
    let began = Instant::now();
    let set_at: u64 = ask(&mut client, &format!("say $now; {timers}")).await.parse().unwrap();
    for due in 0..20 {
        let push = client.receive_any().await;
        let (key, now) = push.text().split_once(' ').unwrap();
        assert_eq!(key, due.to_string());
        let ms = due * MS_PER_KEY;
        assert!(now.parse::<u64>().unwrap() >= set_at + ms, "the timer of {ms} ms was due at {now}, set at {set_at}");
        assert!(began.elapsed() >= Duration::from_millis(ms));
    }
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_whose_call_traps_is_due_again_with_the_state_as_before() {
    let gateway = start().await;
    let mut client = connect(&gateway, "do=join+5").await;
    ask(&mut client, "put on-wake/1 add ticks|deliver group:5 always tick|wake 2 0|trap; wake 1 20").await;
    let traps = "gateway_plugin_calls_total{plugin=\"probe\",outcome=\"trap\"}";
    let deadline = Instant::now() + PATIENCE;
    while gateway.metric(traps).await < 2.5 {
        assert!(Instant::now() < deadline, "the timer is not due a third time");
    }
    assert_eq!(ask(&mut client, "get ticks").await, "none");
    let line = gateway.logged("timer refused: it is tried again").await;
    assert_eq!((&line["fields"]["plugin"], &line["fields"]["key"]), (&"probe".into(), &1.into()));
    ask(&mut client, "put on-wake/1 add ticks; put on-wake/2 put done yes").await;
    ask_until(&mut client, "get ticks", "1").await;
    // After the call that did not fail, it is no longer set.
    ask(&mut client, "wake 2 200").await;
    ask_until(&mut client, "get done", "yes").await;
    assert_eq!(ask(&mut client, "get ticks").await, "1");
    client.assert_alive().await;
    gateway.metric_is("gateway_plugin_quarantined{plugin=\"probe\"}", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap_of_every_hundredth_call_costs_a_room_a_tick_and_nothing_of_its_state() {
    const ROOMS: u64 = 8;
    const TICKS: u64 = 250;
    let gateway = start().await;
    let mut operator = connect(&gateway, "").await;
    let mut players = Vec::new();
    for room in 0..ROOMS {
        players.push(connect(&gateway, &format!("do=join+{room}")).await);
        let tick = format!("add ticks/{room}|deliver group:{room} always tick|wake {room} 10|trap-every 100");
        ask(&mut operator, &format!("put on-wake/{room} {tick}; wake {room} 10")).await;
    }
    for player in &mut players {
        for tick in 1..=TICKS {
            assert_push(player, u32::try_from(tick).unwrap(), "tick").await;
        }
    }
    // A new instance may be called for each trap, so fewer calls than 100 may come between two traps, but never more
    // than 300: two processors and the offload thread have an instance each.
    let traps = gateway.metric("gateway_plugin_calls_total{plugin=\"probe\",outcome=\"trap\"}").await;
    assert!(traps >= 5.0, "{traps} traps");
    gateway.metric_is("gateway_plugin_quarantined{plugin=\"probe\"}", 0.0).await;
    // Every push stands for one tick in the state, and the other way round.
    for (room, player) in players.iter_mut().enumerate() {
        ask(&mut operator, &format!("cancel {room}; remove on-wake/{room}")).await;
        let ticks: u64 = ask(&mut operator, &format!("get ticks/{room}")).await.parse().unwrap();
        for tick in TICKS + 1..=ticks {
            assert_push(player, u32::try_from(tick).unwrap(), "tick").await;
        }
        player.assert_alive().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_that_sets_itself_goes_on_over_a_reload_a_new_version_and_the_return_of_the_file() {
    let gateway = start().await;
    let mut client = connect(&gateway, "").await;
    ask(&mut client, "put on-wake/1 add ticks|wake 1 20; wake 1 20").await;
    ticks_on(&mut client).await;
    gateway.reconfigure(&setup("call_timeout_ms: 30"));
    generation_is(&gateway, 2.0).await;
    ticks_on(&mut client).await;
    put(&gateway.plugin("probe"), &probe_as("probe", 0, false));
    generation_is(&gateway, 3.0).await;
    ticks_on(&mut client).await;
    fs::remove_file(gateway.plugin("probe")).unwrap();
    gateway.logged("\"message\":\"plugin removed\",\"plugin\":\"probe\"").await;
    client.answers_until(ROUTE, 3, "no plugin serves route 0x70").await;
    put(&gateway.plugin("probe"), &probe());
    generation_is(&gateway, 4.0).await;
    ticks_on(&mut client).await;
}

/// Waits until the timer has been due five more times.
async fn ticks_on(client: &mut Client) {
    let ticks: u64 = ask(client, "get ticks").await.parse().unwrap_or(0);
    let deadline = Instant::now() + PATIENCE;
    while ask(client, "get ticks").await.parse::<u64>().unwrap_or(0) < ticks + 5 {
        assert!(Instant::now() < deadline, "the timer is not due any more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_timers_of_one_plugin_do_not_hold_up_those_of_another() {
    const TIMERS: usize = 300;
    let gateway = start_both().await;
    let mut client = connect(&gateway, "").await;
    for route in [ROUTE, ZEBRA] {
        let ticks = format!("join 5; repeat {TIMERS} put on-wake/# deliver group:5 always tick");
        ask_on(&mut client, route, &ticks).await;
    }
    // A call that other processes interrupt may count as slow. Then the offload thread makes those of its plugin for a
    // while, and the calls of the other plugin may all come first.
    for _ in 0..3 {
        for route in [ROUTE, ZEBRA] {
            ask_on(&mut client, route, &format!("repeat {TIMERS} wake # 6000")).await;
        }
        // When the gateway goes on, all timers are due.
        gateway.signal("STOP").await;
        sleep(Duration::from_millis(6500)).await;
        gateway.signal("CONT").await;
        let mut routes = Vec::new();
        for _ in 0..2 * TIMERS {
            routes.push(client.receive_any().await.route);
        }
        let first = &routes[..TIMERS];
        if first.contains(&ROUTE) && first.contains(&ZEBRA) {
            return;
        }
    }
    panic!("one plugin had to wait for all timers of the other");
}
