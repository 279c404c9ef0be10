//! Tests of `on-away` and `on-back`: plugins hear that the client of a session is away, and that it is back.

use crate::{Player, ROUTE, handovers, resumes, sessions_are, setup, start};
use gateway_tests::{Client, Gateway, Setup, guest};
use std::{fs, time::Duration};
use tokio::time::Instant;

/// The script with which the plugin tells user 8 what it hears of the others. Each of them hears of its own return, too.
const REPORT: &str = "put on-away deliver user:8 always away %user %tag; \
                      put on-back deliver user:8 always back %user %tag %handed-over|deliver me always welcome back; \
                      put on-disconnect deliver user:8 always end %user %tag %cause";

/// Begins sessions of user 7, whose tag is 3, and of user 8, who hears what the plugin hears.
async fn pair(gateway: &Gateway) -> (Player, Player) {
    let (mut player, mut watcher) = (Player::begin(gateway, 7).await, Player::begin(gateway, 8).await);
    player.ask("tag 3").await;
    watcher.ask(REPORT).await;
    (player, watcher)
}

/// Makes five sessions fail, so that the plugin is in quarantine. Returns their clients, which stay.
async fn quarantine(gateway: &Gateway) -> Vec<Client> {
    // A good answer between two failures would count, so all of them are connected before.
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(gateway.client().await);
    }
    for client in &mut clients {
        assert_eq!(client.request(ROUTE, b"trap").await.status, 8);
    }
    gateway.metric_is("gateway_plugin_quarantined{plugin=\"probe\"}", 1.0).await;
    clients
}

#[tokio::test]
async fn a_plugin_hears_that_a_client_is_away_and_back_and_then_of_the_end() {
    let gateway = start("window_s: 2").await;
    let (mut player, mut watcher) = pair(&gateway).await;
    let mut reports = 1..;
    for pushes in 0..3 {
        player.leave(&gateway).await;
        watcher.gets(reports.next().unwrap(), "away 7 3").await;
        // The client is away, so the push waits for it, before that of the return.
        watcher.ask("deliver user:7 always missed").await;
        drop(player.come_back(&gateway).await);
        assert!(player.welcome().resumed);
        player.gets(2 * pushes + 1, "missed").await;
        player.gets(2 * pushes + 2, "welcome back").await;
        watcher.gets(reports.next().unwrap(), "back 7 3 false").await;
    }
    player.leave(&gateway).await;
    watcher.gets(7, "away 7 3").await;
    watcher.gets(8, "end 7 3 gone").await;
}

#[tokio::test]
async fn the_first_packet_of_a_client_that_is_back_comes_after_its_return() {
    let gateway = start("").await;
    let (mut player, mut other) = (Player::begin(&gateway, 7).await, Player::begin(&gateway, 8).await);
    player.ask("put on-away put seen away; put on-back put seen back").await;
    // After these quick calls, the plugin is called without its offload thread, for which a client may not wait.
    for _ in 0..20 {
        player.ask("say x").await;
    }
    for _ in 0..20 {
        player.leave(&gateway).await;
        // A client that is back sooner was never away.
        while other.ask("get seen").await != "away" {}
        drop(player.come_back(&gateway).await);
        assert_eq!(player.ask("get seen").await, "back");
    }
}

#[tokio::test]
async fn a_session_that_is_closed_while_its_client_is_away_is_told_as_away_and_then_as_ended() {
    let gateway = start("").await;
    let (mut player, mut watcher) = pair(&gateway).await;
    player.leave(&gateway).await;
    watcher.gets(1, "away 7 3").await;
    watcher.ask("end user:7 4000 bye").await;
    watcher.gets(2, "end 7 3 policy").await;
    sessions_are(&gateway, 1.0).await;
}

#[tokio::test]
async fn a_client_that_takes_its_session_over_was_never_away() {
    let gateway = start("").await;
    let (mut player, mut watcher) = pair(&gateway).await;
    let mut old = player.come_back(&gateway).await;
    assert!(player.welcome().resumed);
    assert_eq!(u16::from(old.closed().await.unwrap().code), 4010);
    gateway.metric_is(&resumes("resumed"), 1.0).await;
    player.ask("tag 4").await;
    // A break that follows is the first thing that the plugin hears.
    player.leave(&gateway).await;
    watcher.gets(1, "away 7 4").await;
}

#[tokio::test]
async fn the_new_gateway_hears_of_a_session_that_is_handed_over_before_its_first_packet() {
    let (redis, old, new) = handovers::start("").await;
    let (mut player, mut at_old) = pair(&old).await;
    player.ask("join 5").await;
    let mut at_new = Player::begin(&new, 8).await;
    at_new.ask(REPORT).await;

    player.leave(&old).await;
    at_old.gets(1, "away 7 3").await;
    drop(player.come_back(&new).await);
    assert!(player.welcome().resumed);
    player.gets(1, "welcome back").await;
    at_new.gets(1, "back 7 3 true").await;
    at_old.gets(2, "end 7 3 handed_over").await;
    // From here on, the session is like any other.
    player.leave(&new).await;
    at_new.gets(2, "away 7 3").await;
    drop(player.come_back(&new).await);
    at_new.gets(3, "back 7 3 false").await;
    player.gets(2, "welcome back").await;

    // A client whose connection is alive is not away when it goes to another gateway.
    drop(player.come_back(&old).await);
    assert!(player.welcome().resumed);
    player.gets(3, "welcome back").await;
    at_old.gets(3, "back 7 3 true").await;
    at_new.gets(4, "end 7 3 handed_over").await;
    drop(redis);
}

#[tokio::test]
async fn a_plugin_in_quarantine_hears_later_what_still_holds_and_keeps_no_client_waiting() {
    let gateway = start("").await;
    let (mut returns, mut watcher) = pair(&gateway).await;
    let mut twice = Player::begin(&gateway, 9).await;
    let mut stays_away = Player::begin(&gateway, 10).await;
    twice.leave(&gateway).await;
    watcher.gets(1, "away 9 0").await;

    let failing = quarantine(&gateway).await;
    // The plugin cannot be told that this client is away. When it could be, the client is back.
    returns.return_after_break(&gateway).await;
    // It cannot be told that this client is back, and then the client is away again.
    let began = Instant::now();
    drop(twice.come_back(&gateway).await);
    assert!(twice.welcome().resumed && began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    twice.client.assert_alive().await;
    twice.leave(&gateway).await;
    stays_away.leave(&gateway).await;
    gateway.logged("plugin released from quarantine").await;
    watcher.gets(2, "away 10 0").await;
    drop(twice.come_back(&gateway).await);
    watcher.gets(3, "back 9 0 false").await;
    returns.leave(&gateway).await;
    watcher.gets(4, "away 7 3").await;
    drop(failing);
}

#[tokio::test]
async fn a_trap_has_no_effect_on_the_session_and_the_call_is_not_made_again() {
    let gateway = start("").await;
    let (mut player, mut watcher) = pair(&gateway).await;
    watcher.ask("put on-away deliver user:8 always never|trap").await;
    player.leave(&gateway).await;
    gateway.logged("that a client is away or back was not handled").await;
    gateway.metric_is("gateway_plugin_calls_total{plugin=\"probe\",outcome=\"trap\"}", 1.0).await;
    watcher.ask("deliver user:7 always missed").await;
    drop(player.come_back(&gateway).await);
    assert!(player.welcome().resumed);
    player.gets(1, "missed").await;
    player.gets(2, "welcome back").await;
    watcher.gets(1, "back 7 3 false").await;
    assert_eq!(player.ask("say $tag").await, "3");
    gateway.metric_is("gateway_plugin_calls_total{plugin=\"probe\",outcome=\"trap\"}", 1.0).await;
}

#[tokio::test]
async fn a_call_that_waits_for_a_slow_plugin_is_not_made_once_the_client_is_back() {
    let yaml = "resume: {}\nplugins: { directory: plugins, settings: { probe: { call_timeout_ms: 5000 } } }";
    let gateway = Gateway::start(Setup { yaml: yaml.to_owned(), ..setup("") }).await;
    let (mut player, mut watcher) = pair(&gateway).await;
    // Slow calls move the plugin to its offload thread.
    for _ in 0..6 {
        watcher.ask("spin 100").await;
    }
    let mut slow = Vec::new();
    for _ in 0..6 {
        let mut client = gateway.client().await;
        client.send(ROUTE, b"spin 500").await;
        slow.push(client);
    }
    gateway.metric_is("gateway_messages_received_total{route=\"112\"}", 14.0).await;
    // The calls before it take three seconds.
    player.return_after_break(&gateway).await;
    for client in &mut slow {
        assert_eq!(client.receive().await.status, 0);
    }
    // The answer comes after all that has waited.
    watcher.ask("say x").await;
    player.ask("tag 4").await;
    player.leave(&gateway).await;
    watcher.gets(1, "away 7 4").await;
}

/// Starts a gateway with a plugin that was built against another version of the interface.
async fn with_guest(name: &str) -> Gateway {
    let files = vec![("guest.wasm", fs::read(guest(name)).unwrap())];
    Gateway::start(Setup { files, ..setup("") }).await
}

/// Breaks a client's connection, waits until the plugin has answered this number of calls, and returns the client over
/// another connection.
async fn resumed(gateway: &Gateway, client: &mut Client, plugin: &str, calls: f64) -> Client {
    client.cut().await;
    gateway.metric_is("gateway_sessions_parked", 1.0).await;
    gateway.metric_is(&format!("gateway_plugin_calls_total{{plugin=\"{plugin}\",outcome=\"ok\"}}"), calls).await;
    let path = format!("/ws?resume={}&seen=0&replies=1", client.welcome.resume_token);
    let client = Client::connect_to(gateway.address, &path).await;
    assert!(client.welcome.resumed);
    client
}

#[tokio::test]
async fn plugins_of_older_versions_serve_sessions_that_are_resumed_and_are_not_asked_for_what_they_lack() {
    // `second` is asked at connect.
    for (name, route, calls) in [("first", 0x77, 1.0), ("second", 0x78, 2.0)] {
        let gateway = with_guest(name).await;
        let mut client = gateway.client().await;
        assert_eq!(client.request(route, b"reply").await.status, 256);
        let mut client = resumed(&gateway, &mut client, name, calls).await;
        assert_eq!(client.request(route, b"reply").await.status, 256);
        for outcome in ["trap", "invalid"] {
            let failed = format!("gateway_plugin_calls_total{{plugin=\"{name}\",outcome=\"{outcome}\"}}");
            gateway.metric_is(&failed, 0.0).await;
        }
    }
}

#[tokio::test]
async fn a_plugin_that_is_built_without_the_sdk_hears_of_clients_in_a_world_of_its_own() {
    let gateway = with_guest("third").await;
    let mut client = gateway.client().await;
    assert_eq!(client.request(0x79, b"").await.status, 256);
    let mut client = resumed(&gateway, &mut client, "third", 2.0).await;
    for name in ["Absence", "Arrival"] {
        let push = client.receive().await;
        assert!(push.text().starts_with(&format!("{name} {{ session: SessionId {{")), "{push:?}");
    }
}
