//! Tests of sessions whose gateway stops before another one has them. They wait in Redis.

use super::{
    handovers::{TOPIC, has_everything, setup, start, tell, with_everything},
    room::behind_a_proxy,
};
use crate::{Player, not_resumed, resumes, sessions_are};
use gateway_tests::{Client, Cluster, Gateway, Redis, Setup, probe};
use std::time::Duration;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// The number of clients that want the same session at the same moment.
const RIVALS: usize = 100;

/// The metric of sessions that were left in Redis, by outcome.
fn stored(outcome: &str) -> String {
    format!("gateway_sessions_stored_total{{outcome={outcome:?}}}")
}

/// Stops a gateway, and waits until it has ended.
pub(crate) async fn stop(gateway: Gateway) {
    gateway.signal("TERM").await;
    ended(gateway).await;
}

/// Waits until a gateway that stops has ended.
async fn ended(mut gateway: Gateway) {
    assert_eq!(gateway.exit().await.code(), Some(0));
    assert!(gateway.log_lines().iter().all(|line| !line.to_string().contains("cut off")));
}

impl Player {
    /// Receives the push that says for how long nobody heard the messages of the session.
    async fn gets_gap(&mut self, at_least: Duration) {
        let packet = self.receive().await;
        let blind_ms = packet.gap().unwrap_or_else(|| panic!("no gap: {packet:?}"));
        assert!((at_least.as_millis()..60_000).contains(&u128::try_from(blind_ms).unwrap()), "{blind_ms}");
    }
}

#[tokio::test]
async fn a_session_goes_on_after_its_gateway_has_stopped() {
    let (redis, old, new) = start("").await;
    let mut player = with_everything(&redis, &old).await;
    let id = player.welcome().session_id.clone();
    // The client has received b and c, and says that it has not.
    for text in ["b", "c"] {
        assert_eq!(player.client.receive_any().await.text(), text);
    }
    old.signal("TERM").await;
    let frame = player.client.closed().await.unwrap();
    assert_eq!(u16::from(frame.code), 1001, "{frame:?}");
    ended(old).await;
    redis.subscribers_are("private", 0).await;
    sleep(Duration::from_millis(300)).await;
    drop(player.come_back(&new).await);
    assert!(player.welcome().resumed, "{:?}", player.welcome());
    assert_eq!((player.welcome().session_id.as_str(), player.welcome().packets_received), (id.as_str(), 1));
    new.metric_is(&resumes("restored"), 1.0).await;
    for (seq, text) in [(2, "b"), (3, "c")] {
        player.gets(seq, text).await;
    }
    player.gets_gap(Duration::from_millis(300)).await;
    has_everything(&redis, &mut player, &id, [4, 5, 6]).await;
}

#[tokio::test]
async fn the_gap_of_a_stored_session_begins_when_its_gateway_heard_nothing_any_more() {
    let redis = Redis::start().await;
    let (proxy, old) = behind_a_proxy(&redis, 1).await;
    let new = Gateway::start(setup(&redis, "")).await;
    redis.subscribers_are(TOPIC, 2).await;
    let mut player = Player::begin(&old, 7).await;
    proxy.hold_subscriptions();
    proxy.cut_subscribers();
    let began = Instant::now();
    sleep(Duration::from_secs(3)).await;
    stop(old).await;
    let blind = began.elapsed();
    drop(player.come_back(&new).await);
    assert!(player.welcome().resumed, "{:?}", player.welcome());
    player.gets_gap(blind.saturating_sub(Duration::from_millis(100))).await;
}

#[tokio::test]
async fn a_client_that_was_away_gets_all_that_came_before_its_gateway_stopped() {
    let (redis, old, new) = start("").await;
    let (mut player, mut other) = (Player::begin(&old, 7).await, Player::begin(&old, 8).await);
    other.ask("put on-disconnect publish goodbye %user: %cause").await;
    let mut goodbyes = redis.subscribe("goodbye").await;
    player.leave(&old).await;
    for text in ["a", "b"] {
        tell(&redis, 7, text).await;
    }
    other.ask("say heard").await;
    stop(old).await;
    let mut heard = [goodbyes.next().await, goodbyes.next().await].map(|text| String::from_utf8(text).unwrap());
    heard.sort_unstable();
    assert_eq!(heard, ["7: stored", "8: stored"]);
    drop(player.come_back(&new).await);
    assert!(player.welcome().resumed);
    for (seq, text) in [(1, "a"), (2, "b")] {
        player.gets(seq, text).await;
    }
    player.gets_gap(Duration::ZERO).await;
}

#[tokio::test]
async fn of_many_clients_with_the_same_token_one_gets_the_stored_session() {
    let (redis, old, new) = start("").await;
    let third = Gateway::start(setup(&redis, "")).await;
    let player = Player::begin(&old, 7).await;
    stop(old).await;
    let mut rivals = JoinSet::new();
    for i in 0..RIVALS {
        let (path, address) = (player.path(), if i % 2 == 0 { third.address } else { new.address });
        rivals.spawn(async move { Client::connect_to(address, &path).await });
    }
    let mut clients = rivals.join_all().await;
    let winners: Vec<_> = clients.extract_if(.., |client| client.welcome.resumed).collect();
    let [winner] = <[Client; 1]>::try_from(winners).ok().expect("one winner");
    assert_eq!(winner.welcome.session_id, player.welcome().session_id);
}

#[tokio::test]
async fn a_wrong_secret_or_number_leaves_a_stored_session_where_it_is() {
    let (redis, old, new) = start("").await;
    let mut player = Player::begin(&old, 7).await;
    tell(&redis, 7, "a").await;
    player.gets(1, "a").await;
    stop(old).await;
    let token = player.welcome().resume_token.clone();
    let (ids, secret) = token.split_at(64);
    let wrong = secret.chars().rev().collect::<String>();
    for path in [format!("/ws?resume={ids}{wrong}&seen=1"), format!("/ws?resume={token}&seen=2")] {
        assert!(!Client::connect_to(new.address, &path).await.welcome.resumed, "{path}");
    }
    for outcome in ["unknown", "missed"] {
        new.metric_is(&resumes(outcome), 1.0).await;
    }
    drop(player.come_back(&new).await);
    assert!(player.welcome().resumed);
}

#[tokio::test]
async fn an_operator_ends_sessions_that_wait_in_redis_too() {
    let (redis, old, new) = start("").await;
    let [mut banned, mut closed, mut other] =
        [Player::begin(&old, 7).await, Player::begin(&old, 8).await, Player::begin(&old, 9).await];
    stop(old).await;
    let order = "{\"closed\":0,\"published\":true}";
    let session = format!("/api/sessions/{}/close", closed.welcome().session_id);
    for path in ["/api/users/7/close", &session] {
        assert_eq!(new.post(path).await, (200, order.to_owned()));
    }
    for player in [&mut banned, &mut closed] {
        drop(player.come_back(&new).await);
        assert!(!player.welcome().resumed);
    }
    drop(other.come_back(&new).await);
    assert!(other.welcome().resumed);
    // What the user begins later is not meant.
    let third = Gateway::start(setup(&redis, "")).await;
    let mut again = Player::begin(&new, 7).await;
    stop(new).await;
    drop(again.come_back(&third).await);
    assert!(again.welcome().resumed);
}

#[tokio::test]
async fn a_client_that_comes_back_while_its_gateway_stops_keeps_its_session() {
    let redis = Redis::start().await;
    let with_patience = |setup: Setup| {
        let yaml = setup.yaml.replace("probe: { config", "probe: { call_timeout_ms: 5000, config");
        Setup { yaml, ..setup }
    };
    let old = Gateway::start(with_patience(setup(&redis, ""))).await;
    let new = Gateway::start(setup(&redis, "")).await;
    redis.subscribers_are(TOPIC, 2).await;
    let mut player = Player::begin(&old, 7).await;
    player.ask("put on-back spin 900").await;
    player.leave(&old).await;
    let (path, address) = (player.path(), old.address);
    let returning = tokio::spawn(async move { Client::connect_to(address, &path).await });
    // The plugin is being told that the client is back, so the client has no token yet.
    sleep(Duration::from_millis(300)).await;
    old.signal("TERM").await;
    player.client = returning.await.unwrap();
    assert!(player.welcome().resumed);
    let frame = player.client.closed().await.unwrap();
    assert_eq!(u16::from(frame.code), 1001, "{frame:?}");
    ended(old).await;
    drop(player.come_back(&new).await);
    assert!(player.welcome().resumed);
}

#[tokio::test]
async fn a_client_that_comes_back_before_its_session_is_in_redis_waits_for_it() {
    let redis = Redis::start().await;
    let (proxy, old) = behind_a_proxy(&redis, 1).await;
    let new = Gateway::start(setup(&redis, "")).await;
    redis.subscribers_are(TOPIC, 2).await;
    let mut player = Player::begin(&old, 7).await;
    proxy.hold_values();
    old.signal("TERM").await;
    let frame = player.client.closed().await.unwrap();
    assert_eq!(u16::from(frame.code), 1001, "{frame:?}");
    proxy.holds_a_command().await;
    let (path, address) = (player.path(), new.address);
    let returning = tokio::spawn(async move { Client::connect_to(address, &path).await });
    sleep(Duration::from_millis(400)).await;
    proxy.release();
    player.client = returning.await.unwrap();
    assert!(player.welcome().resumed);
    new.metric_is(&resumes("restored"), 1.0).await;
}

#[tokio::test]
async fn a_stored_session_ends_with_its_window() {
    let (_redis, old, new) = start("window_s: 1").await;
    let mut player = Player::begin(&old, 7).await;
    stop(old).await;
    sleep(Duration::from_millis(1200)).await;
    drop(player.come_back(&new).await);
    assert!(!player.welcome().resumed);
}

#[tokio::test]
async fn a_gateway_that_cannot_reach_redis_stops_in_time_and_its_sessions_are_new() {
    let (mut redis, mut old, new) = start("").await;
    let mut player = Player::begin(&old, 7).await;
    redis.kill().await;
    old.signal("TERM").await;
    old.logged("a session is lost, because it could not be written to Redis").await;
    assert_eq!(old.exit().await.code(), Some(0));
    redis.restart().await;
    redis.subscribers_are(TOPIC, 1).await;
    drop(player.come_back(&new).await);
    assert!(!player.welcome().resumed);
}

#[tokio::test]
async fn a_gateway_with_the_same_configuration_goes_on_with_the_sessions_of_its_predecessor() {
    let redis = Redis::start().await;
    let old = Gateway::start(setup(&redis, "")).await;
    let mut players = [Player::begin(&old, 7).await, Player::begin(&old, 8).await];
    stop(old).await;
    let new = Gateway::start(setup(&redis, "")).await;
    for player in &mut players {
        drop(player.come_back(&new).await);
        assert!(player.welcome().resumed);
    }
    new.metric_is(&resumes("restored"), 2.0).await;
    sessions_are(&new, 2.0).await;
    // Such a session can be resumed again, and can be left in Redis again.
    players[0].return_after_break(&new).await;
    assert!(players[0].welcome().resumed);
    stop(new).await;
    let last = Gateway::start(setup(&redis, "")).await;
    drop(players[0].come_back(&last).await);
    assert!(players[0].welcome().resumed);
}

#[tokio::test]
async fn in_a_cluster_a_client_that_is_sent_away_goes_on_elsewhere() {
    let cluster = Cluster::start(0).await;
    let gateway = |server: &str| {
        let settings = format!("settings: {{ probe: {{ config: {{ topics: [{TOPIC}] }} }} }}");
        let yaml = format!("{}\nresume: {{}}\nplugins: {{ directory: plugins, {settings} }}", cluster.yaml(""));
        Setup { yaml, server: server.to_owned(), files: vec![("probe.wasm", probe())], ..Setup::default() }
    };
    let mut old = Gateway::start(gateway("reconnect: { rate_per_s: 100 }")).await;
    let new = Gateway::start(gateway("")).await;
    let (mut player, mut away) = (Player::begin(&old, 7).await, Player::begin(&old, 8).await);
    away.leave(&old).await;
    player.ask("tag 3; deliver user:7 always a").await;
    old.signal("TERM").await;
    // The push that asks to connect again comes after the other one.
    player.gets(1, "a").await;
    assert_eq!(player.receive().await.route, 0);
    player.client.cut().await;
    for player in [&mut player, &mut away] {
        drop(player.come_back(&new).await);
        assert!(player.welcome().resumed);
        player.gets_gap(Duration::ZERO).await;
    }
    assert_eq!(player.ask("say $user $tag").await, "7 3");
    new.metric_is(&resumes("restored"), 2.0).await;
    assert_eq!(old.exit().await.code(), Some(0));
}

#[tokio::test]
async fn the_metrics_say_what_was_left_in_redis() {
    let (_redis, old, new) = start("window_s: 60").await;
    for gateway in [&old, &new] {
        for outcome in ["ok", "failed"] {
            gateway.metric_is(&stored(outcome), 0.0).await;
        }
        gateway.metric_is(&not_resumed("stored"), 0.0).await;
    }
}
