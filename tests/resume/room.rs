//! Tests of clients that come back at another gateway, which has no room for them, and of those that keep it busy.

use super::{
    handovers::{TOPIC, setup, start, tell},
    stops::stop,
};
use crate::{Player, resumes, sessions_are};
use gateway_tests::{
    Bound, Client, Connections, Gateway, Proxy, Redis, Setup,
    wire::{UPGRADE, Wire},
};
use std::time::Duration;
use tokio::{
    io::AsyncReadExt,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite::Error;

/// Starts a gateway with this section `limits`.
async fn limited(redis: &Redis, limits: &str) -> Gateway {
    let setup = setup(redis, "");
    let yaml = format!("{}\nlimits: {{ {limits} }}", setup.yaml);
    Gateway::start(Setup { yaml, ..setup }).await
}

/// Lets the client try to come back, and returns the HTTP status of the refusal.
async fn refused(player: &Player, gateway: &Gateway) -> u16 {
    match Client::handshake(gateway.address, &player.path()).await {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("{other:?}"),
    }
}

/// Lets the client come back to a gateway that has to hear first that another one does not take its session. A refused
/// client waits a second (`Retry-After`), and the gateway waits six seconds at most for the other one.
async fn comes_back(player: &mut Player, gateway: &Gateway) {
    let returned = async {
        loop {
            let client = Client::connect_to(gateway.address, &player.path()).await;
            if client.welcome.resumed {
                break client;
            }
        }
    };
    player.client = timeout(Duration::from_secs(4), returned).await.expect("the session");
}

/// Ends a session.
async fn close(gateway: &Gateway, player: Player) {
    let path = format!("/api/sessions/{}/close", player.welcome().session_id);
    assert_eq!(gateway.post(&path).await.0, 200);
    sessions_are(gateway, 0.0).await;
}

/// Limits that hold for a second session of user 7, and the status of a refusal.
const LIMITS: [(&str, u16); 3] =
    [("sessions: 1", 503), ("sessions_per_ip: 1", 429), ("sessions_per_user: 1, on_user_limit: refuse", 429)];

#[tokio::test]
async fn a_session_for_which_another_gateway_has_no_room_stays_where_it_is() {
    for (limits, status) in LIMITS {
        let (redis, old, _) = start("").await;
        let new = limited(&redis, limits).await;
        let there = Player::begin(&new, 7).await;
        let mut player = Player::begin(&old, 7).await;
        player.leave(&old).await;
        tell(&redis, 7, "a").await;
        assert_eq!(refused(&player, &new).await, status, "{limits}");
        new.metric_is(&resumes("no_room"), 1.0).await;
        comes_back(&mut player, &old).await;
        player.gets(1, "a").await;
        // As soon as there is room, it can move.
        close(&new, there).await;
        drop(player.come_back(&new).await);
        assert!(player.welcome().resumed, "{limits}");
    }
}

#[tokio::test]
async fn a_session_for_which_there_is_no_room_stays_in_redis() {
    for (limits, status) in LIMITS {
        let (redis, old, _) = start("").await;
        let new = limited(&redis, limits).await;
        let there = Player::begin(&new, 7).await;
        let mut player = Player::begin(&old, 7).await;
        stop(old).await;
        assert_eq!(refused(&player, &new).await, status, "{limits}");
        close(&new, there).await;
        drop(player.come_back(&new).await);
        assert!(player.welcome().resumed, "{limits}");
        new.metric_is("gateway_sessions", 1.0).await;
    }
}

#[tokio::test]
async fn where_the_oldest_session_of_a_user_makes_room_it_does_so_for_one_that_arrives() {
    let (redis, old, _) = start("").await;
    let new = limited(&redis, "sessions_per_user: 1").await;
    let mut there = Player::begin(&new, 7).await;
    let mut player = Player::begin(&old, 7).await;
    drop(player.come_back(&new).await);
    assert!(player.welcome().resumed);
    assert!(there.client.closed().await.is_some());
    player.client.assert_alive().await;
}

#[tokio::test]
async fn made_up_tokens_are_handshakes_that_are_not_finished() {
    const STRANGERS: usize = 40;
    let redis = Redis::start().await;
    let gateway = limited(&redis, "handshakes: 10").await;
    let mut strangers = JoinSet::new();
    for i in 0..STRANGERS {
        let mut wire = Wire::connect(gateway.address).await;
        let path = format!("/ws?resume={:096x}&seen=0", 1 + i);
        wire.send(UPGRADE.replace("/ws", &path).as_bytes()).await;
        // While a gateway that does not exist is asked, the oldest ones make room.
        strangers.spawn(async move {
            let read = timeout(Duration::from_secs(30), wire.stream.read(&mut [0])).await;
            read.unwrap().unwrap_or(0) == 0
        });
    }
    let evicted = strangers.join_all().await.into_iter().filter(|is_evicted| *is_evicted).count();
    assert_eq!(evicted, STRANGERS - 10);
    gateway.metric_is("gateway_handshakes_refused_total{reason=\"handshake_evicted\"}", evicted as f64).await;
}

/// Starts a gateway behind a proxy, and waits until so many gateways have subscribed.
pub(crate) async fn behind_a_proxy(redis: &Redis, gateways: usize) -> (Proxy, Gateway) {
    let proxy = Proxy::start(redis).await;
    let setup = setup(redis, "");
    let place = |port: u16| format!("127.0.0.1:{port}");
    let yaml = setup.yaml.replace(&place(redis.port), &place(proxy.port));
    let gateway = Gateway::start(Setup { yaml, ..setup }).await;
    redis.subscribers_are(TOPIC, gateways).await;
    (proxy, gateway)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_that_makes_room_for_another_handshake_leaves_the_session_where_it_is() {
    let redis = Redis::start().await;
    let (proxy, old) = behind_a_proxy(&redis, 1).await;
    let new = limited(&redis, "handshakes: 1").await;
    redis.subscribers_are(TOPIC, 2).await;
    let mut player = Player::begin(&old, 7).await;
    player.leave(&old).await;
    // The old gateway offers the session, and the new one does not hear it.
    proxy.drop_silently(Connections::Publishing, Bound::ToRedis);
    let (path, address) = (player.path(), new.address);
    let waiting = tokio::spawn(async move { Client::handshake(address, &path).await.is_ok() });
    sleep(Duration::from_millis(500)).await;
    let _newest = Wire::connect(new.address).await;
    assert!(!waiting.await.unwrap());
    comes_back(&mut player, &old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_for_a_session_that_never_arrives_whole_are_counted() {
    let (redis, old, _other) = start("").await;
    let (proxy, new) = behind_a_proxy(&redis, 3).await;
    let mut player = Player::begin(&old, 7).await;
    player.leave(&old).await;
    proxy.hold_subscriptions();
    let (path, address) = (player.path(), new.address);
    let returning = tokio::spawn(async move { Client::connect_to(address, &path).await });
    proxy.holds_a_command().await;
    old.signal("STOP").await;
    proxy.release();
    // The mark has arrived, but the old gateway does not send what waits for the client.
    sessions_are(&new, 1.0).await;
    for text in ["a", "b", "c"] {
        tell(&redis, 7, text).await;
    }
    assert!(!returning.await.unwrap().welcome.resumed);
    new.metric_is(&resumes("no_answer"), 1.0).await;
    new.metric_is("gateway_messages_dropped_total{reason=\"session_ended\"}", 3.0).await;
    old.signal("CONT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_arrives_while_its_new_gateway_stops_is_not_lost() {
    let (redis, old, other) = start("").await;
    let (proxy, mut new) = behind_a_proxy(&redis, 3).await;
    let mut player = Player::begin(&old, 7).await;
    player.ask("listen private").await;
    stop(old).await;
    proxy.hold_subscriptions();
    let (path, address) = (player.path(), new.address);
    let returning = tokio::spawn(async move { Client::connect_to(address, &path).await });
    proxy.holds_a_command().await;
    new.signal("TERM").await;
    sleep(Duration::from_millis(500)).await;
    proxy.release();
    player.client = returning.await.unwrap();
    assert!(player.welcome().resumed);
    let frame = player.client.closed().await.unwrap();
    assert_eq!(u16::from(frame.code), 1001, "{frame:?}");
    assert_eq!(new.exit().await.code(), Some(0));
    drop(player.come_back(&other).await);
    assert!(player.welcome().resumed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_left_at_the_new_master_of_redis() {
    let (demoted, master) = (Redis::start().await, Redis::start().await);
    let (proxy, old) = behind_a_proxy(&demoted, 1).await;
    let mut player = Player::begin(&old, 7).await;
    // The gateway looks in Redis for the session of another gateway, over a connection that it keeps.
    let token = player.welcome().resume_token.clone();
    let first = if token.starts_with('0') { '1' } else { '0' };
    let stranger = Client::connect_to(old.address, &format!("/ws?resume={first}{}", &token[1..])).await;
    assert!(!stranger.welcome.resumed);
    demoted.replicate(Some(&master)).await;
    proxy.lead_to(&master);
    let new = Gateway::start(setup(&master, "")).await;
    master.subscribers_are(TOPIC, 2).await;
    stop(old).await;
    drop(player.come_back(&new).await);
    assert!(player.welcome().resumed, "{:?}", player.welcome());
}
