//! Tests of the actions `listen` and `unlisten`: a topic is heard for as long as a session or a group wants it.

use crate::{ROUTE, ask, assert_push, connect, sessions_are, setup, start};
use gateway_tests::{Client, Gateway, PATIENCE, Redis, Setup};
use tokio::time::Instant;

/// Publishes a message on this topic, in which the plugin is told to push the topic to user 7, who is the client
/// itself. Returns whether a plugin has heard it.
async fn is_heard(client: &mut Client, topic: &str) -> bool {
    ask(client, &format!("publish {topic} deliver user:7 always on %topic")).await;
    let answer = client.receive_any().await;
    assert_eq!(answer.route, ROUTE);
    match answer.status {
        0 => assert_eq!((answer.flags, answer.text()), (0, &*format!("on {topic}"))),
        status => assert_eq!((status, answer.text()), (5, &*format!("no backend listens on {topic}"))),
    }
    answer.status == 0
}

/// Waits until nobody hears the topic any more.
async fn is_silent(client: &mut Client, topic: &str) {
    let deadline = Instant::now() + PATIENCE;
    while is_heard(client, topic).await {
        assert!(Instant::now() < deadline, "{topic} is still heard");
    }
}

#[tokio::test]
async fn a_topic_is_heard_for_a_session_until_it_unlistens_or_ends() {
    let gateway = start().await;
    let mut client = connect(&gateway, "user=7").await;
    assert!(!is_heard(&mut client, "news").await);
    ask(&mut client, "listen news; listen news").await;
    assert!(is_heard(&mut client, "news").await);
    assert!(!is_heard(&mut client, "other").await);
    ask(&mut client, "unlisten news; unlisten other").await;
    assert!(!is_heard(&mut client, "news").await);

    let listener = connect(&gateway, "do=listen+news").await;
    assert!(is_heard(&mut client, "news").await);
    drop(listener);
    is_silent(&mut client, "news").await;
}

#[tokio::test]
async fn a_topic_is_heard_for_a_group_until_it_unlistens_or_has_no_members() {
    let gateway = start().await;
    let mut client = connect(&gateway, "user=7").await;
    // A group without members wants nothing.
    ask(&mut client, "listen-group 5 news; join 5").await;
    assert!(!is_heard(&mut client, "news").await);
    let other = connect(&gateway, "do=join+5;listen-group+5+news").await;
    assert!(is_heard(&mut client, "news").await);
    ask(&mut client, "leave 5").await;
    assert!(is_heard(&mut client, "news").await);
    ask(&mut client, "unlisten-group 5 news").await;
    assert!(!is_heard(&mut client, "news").await);

    ask(&mut client, "listen-group 5 news").await;
    assert!(is_heard(&mut client, "news").await);
    drop(other);
    is_silent(&mut client, "news").await;
    // The interest ended with the last member, and a new member does not bring it back.
    ask(&mut client, "join 5").await;
    assert!(!is_heard(&mut client, "news").await);
}

#[tokio::test]
async fn a_message_is_heard_once_however_many_hold_the_topic() {
    let gateway = Gateway::start(setup("config: { topics: [news] }")).await;
    let mut client = connect(&gateway, "user=7&do=join+5;listen-group+5+news;listen+news").await;
    let _other = connect(&gateway, "do=listen+news").await;
    assert!(is_heard(&mut client, "news").await);
    gateway.metric_is("gateway_plugin_pushes_total{plugin=\"probe\"}", 1.0).await;
    // The topic of `configure` stays without the others.
    ask(&mut client, "unlisten news; unlisten-group 5 news").await;
    assert!(is_heard(&mut client, "news").await);
    client.assert_alive().await;
}

#[tokio::test]
async fn interests_survive_a_reload() {
    let gateway = start().await;
    let mut client = connect(&gateway, "user=7&do=listen+news").await;
    gateway.reconfigure(&setup("call_timeout_ms: 30"));
    crate::generation_is(&gateway, 2.0).await;
    assert!(is_heard(&mut client, "news").await);
}

#[tokio::test]
async fn on_redis_a_topic_is_subscribed_to_while_a_session_wants_it() {
    let redis = Redis::start().await;
    let setup = || {
        let setup = setup("");
        Setup {
            yaml: format!("{}\nredis: {{ addr: \"127.0.0.1:{}\", timeout_ms: 30000 }}", setup.yaml, redis.port),
            ..setup
        }
    };
    let (gateway, other) = (Gateway::start(setup()).await, Gateway::start(setup()).await);
    redis.subscribers_are("broadcast", 2).await;
    redis.subscribers_are("news:7", 0).await;
    let mut client = connect(&gateway, "user=7&do=listen+news:7").await;
    let second = connect(&gateway, "user=7&do=listen+news:7").await;
    let _stranger = connect(&other, "user=8&do=listen+news:8").await;
    redis.subscribers_are("news:7", 1).await;
    redis.subscribers_are("news:8", 1).await;
    // Only the gateway that has the user's session gets the message.
    assert_eq!(redis.publish("news:7", b"deliver user:7 always hello").await, 1);
    assert_push(&mut client, 1, "hello").await;
    drop(second);
    sessions_are(&gateway, 1.0).await;
    assert_eq!(redis.publish("news:7", b"deliver user:7 always again").await, 1);
    assert_push(&mut client, 2, "again").await;
    drop(client);
    redis.subscribers_are("news:7", 0).await;
    let channels: Vec<String> =
        redis::cmd("PUBSUB").arg("CHANNELS").arg("news:*").query_async(&mut redis.connection().await).await.unwrap();
    assert_eq!(channels, ["news:8"]);
}

#[tokio::test]
async fn on_redis_a_topic_is_subscribed_to_while_a_group_has_members_and_again_after_an_outage() {
    let mut redis = Redis::start().await;
    let setup = setup("");
    let yaml = format!("{}\nredis: {{ addr: \"127.0.0.1:{}\", timeout_ms: 30000 }}", setup.yaml, redis.port);
    let gateway = Gateway::start(Setup { yaml, ..setup }).await;
    let mut client = connect(&gateway, "user=7&do=join+5;listen-group+5+news").await;
    redis.subscribers_are("news", 1).await;
    redis.kill().await;
    redis.restart().await;
    redis.subscribers_are("news", 1).await;
    let gap = client.receive_any().await;
    assert!(gap.gap().is_some(), "{gap:?}");
    assert_eq!(redis.publish("news", b"deliver user:7 always hello").await, 1);
    assert_push(&mut client, 1, "hello").await;
    ask(&mut client, "leave 5").await;
    redis.subscribers_are("news", 0).await;
}

#[tokio::test]
async fn a_plugin_that_names_a_topic_twice_hears_each_message_once() {
    let gateway = Gateway::start(setup("config: { topics: [news, news] }")).await;
    let mut client = connect(&gateway, "user=7").await;
    assert!(is_heard(&mut client, "news").await);
    client.assert_alive().await;
}
