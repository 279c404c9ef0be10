//! Tests of what a gateway hears of the deliveries to single users, and how it counts messages that are for nobody here.

use super::{BROADCAST, DELIVERED, NOT_HERE, REJECTED, assert_pushed, broadcast, connected, stage};
use futures_util::{StreamExt, stream};
use gateway_tests::{Client, Gateway, Redis, Setup, eventually, raise_open_files};

const HEARD_HERE: &str = "gateway_bus_received_total{outcome=\"here\"}";
const HEARD_NOT_HERE: &str = "gateway_bus_received_total{outcome=\"not_here\"}";
const NO_SUBSCRIBER: &str = "gateway_messages_dropped_total{reason=\"no_subscriber\"}";

/// The users on each gateway.
const USERS: i32 = 1000;

/// The clients that connect at the same time.
const CONNECTING: usize = 50;

/// Connects the clients of `USERS` users, from the user `first` on.
async fn clients(gateway: &Gateway, first: i32) -> Vec<(i32, Client)> {
    let client = async |user| (user, gateway.client_of(user).await);
    stream::iter(first..first + USERS).map(client).buffer_unordered(CONNECTING).collect().await
}

/// Waits until Redis has this number of channels of users.
async fn channels_are(redis: &Redis, count: usize) {
    let mut command = redis::cmd("PUBSUB");
    command.arg("CHANNELS").arg("broadcast:user:*");
    eventually(&format!("{count} channels of users"), || async {
        let channels: Vec<String> = command.query_async(&mut redis.connection().await).await.ok()?;
        (channels.len() == count).then_some(())
    })
    .await;
}

/// Publishes one message for each user, on the user's own topic or on the one that every gateway hears. Asserts how many
/// gateways hear each.
async fn publish(redis: &Redis, number: i64, topic: impl Fn(i32) -> String, gateways: usize) {
    let mut pipeline = redis::pipe();
    for user in 1..=2 * USERS {
        pipeline.publish(topic(user), broadcast(user, number));
    }
    let heard: Vec<usize> = pipeline.query_async(&mut redis.connection().await).await.unwrap();
    assert_eq!(heard, vec![gateways; heard.len()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_hears_its_own_users_on_their_topics_and_all_users_on_broadcast() {
    raise_open_files(3000);
    let redis = Redis::start().await;
    let gateways = [connected(Setup::redis(&redis)).await, connected(Setup::redis(&redis)).await];
    let mut users = clients(&gateways[0], 1).await;
    users.extend(clients(&gateways[1], 1 + USERS).await);
    let all = f64::from(USERS);
    channels_are(&redis, users.len()).await;

    publish(&redis, 1, |user| format!("broadcast:user:{user}"), 1).await;
    for (user, client) in &mut users {
        assert_pushed(client, 1, &broadcast(*user, 1)).await;
    }
    for gateway in &gateways {
        for (metric, value) in [(HEARD_HERE, all), (HEARD_NOT_HERE, 0.0), (DELIVERED, all), (NOT_HERE, 0.0)] {
            gateway.metric_is(metric, value).await;
        }
    }

    publish(&redis, 2, |_| BROADCAST.to_owned(), 2).await;
    for (user, client) in &mut users {
        assert_pushed(client, 2, &broadcast(*user, 2)).await;
    }
    for gateway in &gateways {
        for (metric, value) in [(HEARD_HERE, 2.0 * all), (HEARD_NOT_HERE, all), (DELIVERED, 2.0 * all), (NOT_HERE, all)]
        {
            gateway.metric_is(metric, value).await;
        }
    }
}

#[tokio::test]
async fn a_message_is_for_nobody_here_if_it_led_to_nothing_on_this_gateway() {
    let redis = Redis::start().await;
    let plugins = vec!["chat", "control", "system"];
    let gateway = connected(Setup { plugins, ..Setup::redis(&redis) }).await;
    let mut client = gateway.client_of(7).await;
    let counted = async |here: f64, not_here: f64| {
        gateway.metric_is(HEARD_HERE, here).await;
        gateway.metric_is(HEARD_NOT_HERE, not_here).await;
    };
    counted(0.0, 0.0).await;
    redis.publish(BROADCAST, &broadcast(8, 1)).await;
    counted(0.0, 1.0).await;
    redis.publish("gateway:control", br#"{"close": {"user": 8}}"#).await;
    counted(0.0, 2.0).await;
    // What a plugin refuses is a fault of the backend, and says nothing about the gateway that hears it.
    redis.publish(BROADCAST, b"no protobuf").await;
    counted(1.0, 2.0).await;
    gateway.metric_is(REJECTED, 1.0).await;
    redis.publish(BROADCAST, &broadcast(7, 2)).await;
    assert_pushed(&mut client, 1, &broadcast(7, 2)).await;
    counted(2.0, 2.0).await;
    redis.publish("gateway:control", br#"{"close": {"user": 7}}"#).await;
    assert_eq!(client.closed().await.unwrap().code, 4002.into());
    counted(3.0, 2.0).await;
}

#[tokio::test]
async fn a_message_for_a_user_who_has_just_left_is_for_nobody_here() {
    let (redis, gateway) = stage().await;
    let client = gateway.client_of(7).await;
    redis.subscribers_are("broadcast:user:7", 1).await;
    drop(client);
    gateway.metric_is("gateway_sessions", 0.0).await;
    // The topic is heard for two more seconds.
    let heard = redis.publish("broadcast:user:7", &broadcast(7, 1)).await;
    assert_eq!(heard, 1, "the test was too slow");
    gateway.metric_is(HEARD_NOT_HERE, 1.0).await;
    assert_eq!((gateway.metric(NO_SUBSCRIBER).await, gateway.metric(HEARD_HERE).await), (1.0, 0.0));
}
