//! Tests of clients that come back at another gateway of the same Redis.

use crate::{Player, ROUTE, not_resumed, resumes, sessions_are};
use gateway_tests::{Client, Gateway, Redis, Setup, bombs, eventually, greeter, probe};
use std::time::Duration;
use tokio::{task::JoinSet, time::sleep};

/// The topic that the plugin `probe` subscribes to on each gateway. A message is a list of commands.
pub(crate) const TOPIC: &str = "orders";

/// The number of clients that want the same session at the same moment, half of them at each gateway.
const RIVALS: usize = 200;

pub(crate) fn setup(redis: &Redis, resume: &str) -> Setup {
    let setup = Setup::redis(redis);
    let settings = format!("settings: {{ probe: {{ config: {{ topics: [{TOPIC}] }} }} }}");
    let yaml = format!("{}\nresume: {{ {resume} }}\nplugins: {{ directory: plugins, {settings} }}", setup.yaml);
    Setup { yaml, files: vec![("probe.wasm", probe())], ..setup }
}

/// Starts a Redis and two gateways.
pub(crate) async fn start(resume: &str) -> (Redis, Gateway, Gateway) {
    let redis = Redis::start().await;
    let old = Gateway::start(setup(&redis, resume)).await;
    let new = Gateway::start(setup(&redis, resume)).await;
    redis.subscribers_are(TOPIC, 2).await;
    (redis, old, new)
}

/// Sends a push to the user, on whichever gateway the user is.
pub(crate) async fn tell(redis: &Redis, user: u32, text: &str) {
    redis.publish(TOPIC, format!("deliver user:{user} always {text}").as_bytes()).await;
}

/// Begins a session of user 7 with a group, a tag and a topic. Of its three pushes, the client takes the first one.
pub(crate) async fn with_everything(redis: &Redis, gateway: &Gateway) -> Player {
    let mut player = Player::begin(gateway, 7).await;
    player.ask("join 5; tag 3; listen private").await;
    redis.subscribers_are("private", 1).await;
    for text in ["a", "b", "c"] {
        tell(redis, 7, text).await;
    }
    player.gets(1, "a").await;
    player
}

/// Asserts that a session goes on as [`with_everything`] began it. Its next three pushes have these numbers.
pub(crate) async fn has_everything(redis: &Redis, player: &mut Player, id: &str, numbers: [u32; 3]) {
    tell(redis, 7, "to the user").await;
    player.gets(numbers[0], "to the user").await;
    redis.publish(TOPIC, b"deliver group:5 always to the group").await;
    player.gets(numbers[1], "to the group").await;
    redis.publish("private", b"deliver user:7 always over the topic").await;
    player.gets(numbers[2], "over the topic").await;
    assert_eq!(player.ask("say $session $user $tag").await, format!("{id} 7 3"));
}

#[tokio::test]
async fn a_session_goes_on_at_another_gateway_with_everything_that_it_has() {
    let (redis, old, new) = start("").await;
    let mut player = with_everything(&redis, &old).await;
    let id = player.welcome().session_id.clone();
    player.leave(&old).await;
    tell(&redis, 7, "d").await;
    drop(player.come_back(&new).await);
    assert!(player.welcome().resumed, "{:?}", player.welcome());
    assert_eq!((player.welcome().session_id.as_str(), player.welcome().packets_received), (id.as_str(), 1));
    for (seq, text) in [(2, "b"), (3, "c"), (4, "d")] {
        player.gets(seq, text).await;
    }
    sessions_are(&old, 0.0).await;
    sessions_are(&new, 1.0).await;
    new.metric_is(&resumes("handed_over"), 1.0).await;
    old.metric_is(&not_resumed("handed_over"), 1.0).await;
    has_everything(&redis, &mut player, &id, [5, 6, 7]).await;
    // And back again.
    tell(&redis, 7, "h").await;
    drop(player.come_back(&old).await);
    assert!(player.welcome().resumed);
    assert_eq!(player.welcome().packets_received, 2);
    player.gets(8, "h").await;
    assert_eq!(player.ask("say $tag").await, "3");
}

#[tokio::test]
async fn the_old_gateway_tells_its_plugins_that_the_session_has_moved() {
    let (redis, old, new) = start("").await;
    let (mut player, mut other) = (Player::begin(&old, 7).await, Player::begin(&old, 8).await);
    other.ask("put on-disconnect deliver user:8 always %user: %cause").await;
    drop(player.come_back(&new).await);
    assert!(player.welcome().resumed);
    other.gets(1, "7: handed_over").await;
    drop(redis);
}

#[tokio::test]
async fn of_many_clients_with_the_same_token_at_two_gateways_one_gets_the_session() {
    let (redis, old, new) = start("").await;
    let mut player = Player::begin(&old, 7).await;
    for text in ["a", "b"] {
        tell(&redis, 7, text).await;
    }
    player.gets(1, "a").await;
    player.leave(&old).await;
    let mut rivals = JoinSet::new();
    for i in 0..RIVALS {
        let (path, address) = (player.path(), if i % 2 == 0 { old.address } else { new.address });
        rivals.spawn(async move { Client::connect_to(address, &path).await });
    }
    let mut clients = rivals.join_all().await;
    let winners: Vec<_> = clients.extract_if(.., |client| client.welcome.resumed).collect();
    let [mut winner] = <[Client; 1]>::try_from(winners).ok().expect("one winner");
    assert_eq!(winner.welcome.session_id, player.welcome().session_id);
    assert_eq!(winner.receive_any().await.text(), "b");
    winner.assert_alive().await;
}

#[tokio::test]
async fn after_a_crash_of_the_old_gateway_the_session_is_new() {
    let (redis, old, new) = start("").await;
    let mut player = Player::begin(&old, 7).await;
    tell(&redis, 7, "a").await;
    player.gets(1, "a").await;
    old.signal("KILL").await;
    let mut client = Client::connect_to(new.address, &format!("{}&user=7", player.path())).await;
    assert!(!client.welcome.resumed);
    new.metric_is(&resumes("no_answer"), 1.0).await;
    tell(&redis, 7, "b").await;
    // The numbers begin anew.
    let push = client.receive_any().await;
    assert_eq!((push.seq, push.text(), push.route), (1, "b", ROUTE));
}

#[tokio::test]
async fn a_wrong_number_or_a_used_token_leads_to_a_new_session_at_another_gateway_too() {
    let (_redis, old, new) = start("").await;
    let mut player = Player::begin(&old, 7).await;
    let used = player.path();
    drop(player.come_back(&new).await);
    assert!(player.welcome().resumed);
    let client = Client::connect_to(new.address, &used).await;
    assert!(!client.welcome.resumed);
    new.metric_is(&resumes("unknown"), 1.0).await;
    let wrong = format!("/ws?resume={}&seen=9", player.welcome().resume_token);
    let client = Client::connect_to(old.address, &wrong).await;
    assert!(!client.welcome.resumed);
    old.metric_is(&resumes("missed"), 1.0).await;
    let frame = player.client.closed().await.unwrap();
    assert_eq!(u16::from(frame.code), 4010, "{frame:?}");
}

#[tokio::test]
async fn a_hand_over_that_does_not_go_on_leaves_the_session_where_it_is() {
    let (redis, old, new) = start("window_s: 60").await;
    let mut player = Player::begin(&old, 7).await;
    player.leave(&old).await;
    // The new gateway does not hear the offer.
    new.signal("STOP").await;
    let (path, address) = (player.path(), new.address);
    let waiting = tokio::spawn(async move { Client::handshake(address, &path).await.is_ok() });
    sleep(Duration::from_millis(500)).await;
    tell(&redis, 7, "a").await;
    waiting.abort();
    new.signal("KILL").await;
    drop(player.come_back(&old).await);
    assert!(player.welcome().resumed);
    player.gets(1, "a").await;
}

#[tokio::test]
async fn a_gateway_that_still_loads_its_plugins_takes_no_session_of_another_one() {
    let redis = Redis::start().await;
    let old = Gateway::start(setup(&redis, "")).await;
    let mut still_loads = setup(&redis, "");
    still_loads.files.push(("bomb.wasm", bombs::functions(&greeter("bomb", "1", &[0x40]), 999_000)));
    let new = Gateway::start_without_waiting(still_loads).await;
    let mut player = Player::begin(&old, 7).await;
    let refused = Client::handshake(new.address, &player.path()).await.unwrap_err();
    assert!(refused.to_string().contains("503"), "{refused}");
    tell(&redis, 7, "a").await;
    player.gets(1, "a").await;
    std::fs::remove_file(new.plugin("bomb")).unwrap();
    eventually("the new gateway is ready", || async { (new.get("/readyz").await.0 == 200).then_some(()) }).await;
    drop(player.come_back(&new).await);
    assert!(player.welcome().resumed);
    tell(&redis, 7, "b").await;
    player.gets(2, "b").await;
}

#[tokio::test]
async fn while_redis_is_away_a_client_gets_a_new_session_and_the_old_one_waits() {
    let (mut redis, old, new) = start("window_s: 60").await;
    let mut player = Player::begin(&old, 7).await;
    player.leave(&old).await;
    redis.kill().await;
    let token = player.path();
    drop(player.come_back(&new).await);
    assert!(!player.welcome().resumed);
    let client = Client::connect_to(old.address, &token).await;
    assert!(client.welcome.resumed);
}

#[tokio::test]
async fn more_messages_than_one_on_the_bus_can_hold_are_handed_over() {
    let redis = Redis::start().await;
    let setup =
        || Setup { server: "max_message_bytes: 1024".to_owned(), ..setup(&redis, "messages: 1000, bytes: 1048576") };
    let (old, new) = (Gateway::start(setup()).await, Gateway::start(setup()).await);
    redis.subscribers_are(TOPIC, 2).await;
    let mut player = Player::begin(&old, 7).await;
    player.leave(&old).await;
    // A gateway takes messages of 1 KiB and 64 KiB for what the protocols add.
    let texts: Vec<_> = (0..150).map(|number| format!("{number} {}", "x".repeat(900))).collect();
    for text in &texts {
        tell(&redis, 7, text).await;
    }
    old.metric_is("gateway_deliveries_total{outcome=\"delivered\"}", 150.0).await;
    drop(player.come_back(&new).await);
    assert!(player.welcome().resumed, "{:?}", player.welcome());
    new.metric_is(&resumes("handed_over"), 1.0).await;
    for (seq, text) in (1..).zip(&texts) {
        player.gets(seq, text).await;
    }
    tell(&redis, 7, "next").await;
    player.gets(151, "next").await;
}
