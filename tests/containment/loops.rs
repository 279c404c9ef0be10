//! Tests of plugins that hear what they publish. Without a limit, one message would keep the bus busy for ever.

use crate::{GAME, ROUTE, loaded, settings};
use chat_proto::chat::ChatResponse;
use gateway_tests::{Client, Gateway, Redis, Setup, Subscription, chat_request, eventually};
use prost::Message;
use redis::{AsyncCommands, aio::MultiplexedConnection};
use tokio::time::Instant;

const REFUSED: &str = "gateway_plugin_publishes_refused_total{plugin=\"hostile\",reason=\"publish_loop\"}";

/// The maximum number of publishes in loops that a plugin may make each second.
const MAX_LOOPED_PER_S: f64 = 100.0;

/// Returns the topic that the hostile plugin subscribes to.
fn topic() -> String {
    format!("game:request:{GAME}")
}

/// Returns the setup of a plugin that receives its own publishes, and publishes in this way for each of them.
fn echoing(way: &str) -> Setup {
    settings("on_packet", &format!("publish-once, on_message: {way}"), "")
}

/// Starts a gateway with this Redis and a plugin that publishes in this way for each message that it receives.
async fn echoing_on(redis: &Redis, way: &str) -> Gateway {
    let setup = echoing(way);
    let yaml = format!("{}\nredis: {{ addr: \"127.0.0.1:{}\", timeout_ms: 30000 }}", setup.yaml, redis.port);
    loaded(Setup { yaml, ..setup }).await
}

/// Waits until publishes of the plugin have been refused on one of the gateways.
async fn loop_is_found(gateways: &[&Gateway]) {
    eventually("the loop is found", || async {
        let mut refused = 0.0;
        for gateway in gateways {
            refused += gateway.metric(REFUSED).await;
        }
        (refused > 0.0).then_some(())
    })
    .await;
}

/// Asserts that the log and the metrics of the gateway name the loop.
async fn loop_is_named(gateway: &Gateway) {
    let line = gateway.logged("publishes of the plugin refused").await;
    assert_eq!(
        (&line["fields"]["plugin"], &line["fields"]["topic"], &line["fields"]["reason"]),
        (&"hostile".into(), &topic().into(), &"publish_loop".into())
    );
    assert!(gateway.metric("gateway_messages_dropped_total{reason=\"publish_loop\"}").await > 0.0);
}

/// A backend on Redis that answers chat requests.
struct Backend {
    requests: Subscription,
    connection: MultiplexedConnection,
    answers: i64,
}

impl Backend {
    async fn start(redis: &Redis) -> Self {
        let requests = redis.subscribe("game:request:mmo").await;
        Self { requests, connection: redis.connection().await, answers: 0 }
    }

    /// Asserts that a chat request of this user reaches the backend, and that the answer reaches the user.
    async fn serves(&mut self, player: &mut Client, user: i32) {
        let request = chat_request("mmo", user, "x");
        player.send(1, &request).await;
        assert_eq!(self.requests.next().await, request);
        self.answers += 1;
        let answer = ChatResponse { message_id: self.answers, target_user_id: user, ..Default::default() };
        let answer = answer.encode_to_vec();
        let _: usize = self.connection.publish("broadcast", &answer).await.unwrap();
        let push = player.receive_any().await;
        assert_eq!((push.route, push.flags, push.status, &push.payload[..]), (1, 0, 0, &answer[..]), "{push:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_receives_its_own_publishes_does_not_take_the_embedded_bus_from_others() {
    let mut setup = echoing("publish-twice-where-it-was-heard");
    setup.plugins.push("demo-chat");
    let gateway = loaded(setup).await;
    let (mut attacker, mut player) = (gateway.client().await, gateway.client().await);
    attacker.send(ROUTE, b"").await;
    loop_is_found(&[&gateway]).await;
    for _ in 0..200 {
        player.send(1, &chat_request("mmo", 1, "x")).await;
        let push = player.receive().await;
        assert_eq!((push.route, push.flags, push.status), (1, 0, 0), "{push:?}");
    }
    loop_is_named(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_receives_its_own_publishes_does_not_take_redis_from_others() {
    let redis = Redis::start().await;
    let gateway = echoing_on(&redis, "publish-twice-where-it-was-heard").await;
    redis.subscribers_are(&topic(), 1).await;
    let mut backend = Backend::start(&redis).await;
    let (mut attacker, mut player) = (gateway.client().await, gateway.client().await);
    attacker.send(ROUTE, b"").await;
    loop_is_found(&[&gateway]).await;
    for _ in 0..200 {
        backend.serves(&mut player, 1).await;
    }
    loop_is_named(&gateway).await;
}

/// A plugin that publishes once for each message keeps one message on its way on one gateway, and doubles the messages on
/// two gateways.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_publishes_once_for_each_message_is_limited_on_two_gateways() {
    let redis = Redis::start().await;
    let way = "publish-once-where-it-was-heard";
    let gateways = [echoing_on(&redis, way).await, echoing_on(&redis, way).await];
    redis.subscribers_are(&topic(), 2).await;
    redis.subscribers_are("broadcast", 2).await;
    let mut backend = Backend::start(&redis).await;
    let (mut attacker, mut players) =
        (gateways[0].client().await, [gateways[0].client().await, gateways[1].client().await]);
    let (before, began) = (published(&gateways).await, Instant::now());
    attacker.send(ROUTE, b"").await;
    loop_is_found(&[&gateways[0], &gateways[1]]).await;
    for _ in 0..100 {
        for (player, user) in players.iter_mut().zip(1..) {
            backend.serves(player, user).await;
        }
    }
    let looped = published(&gateways).await - before - 200.0;
    // The first publish, and then one burst and the rate of each gateway.
    let most = 1.0 + 2.0 * MAX_LOOPED_PER_S * (1.0 + began.elapsed().as_secs_f64());
    println!("{looped} publishes in the loop in {:?}", began.elapsed());
    assert!((2.0..=most).contains(&looped), "{looped} publishes in the loop in {:?}, at most {most}", began.elapsed());
}

/// Returns the number of messages that Redis has taken from these gateways.
async fn published(gateways: &[Gateway]) -> f64 {
    let mut published = 0.0;
    for gateway in gateways {
        published += gateway.metric("gateway_bus_published_total").await;
    }
    published
}
