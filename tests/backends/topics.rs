//! A gateway that listens to a hundred thousand topics: after a break of the subscription, it hears all of them again.

use super::connected;
use gateway_tests::{Client, Redis, Setup, eventually, probe};

/// The route of the plugin `probe`.
const ROUTE: u8 = 0x70;

/// The number of topics that one group listens to, which is the limit.
const TOPICS_PER_GROUP: usize = 64;

const GROUPS: usize = 1563;

/// The topics of all groups.
const TOPICS: usize = GROUPS * TOPICS_PER_GROUP;

/// The groups of one session, which may be in at most 1024.
const GROUPS_PER_SESSION: usize = 1000;

fn topic(number: usize) -> String {
    format!("news:{number}")
}

/// Connects sessions that join all groups, which listen to all topics.
async fn listeners(gateway: &gateway_tests::Gateway) -> Vec<Client> {
    let mut clients = Vec::new();
    for group in 0..GROUPS {
        if group % GROUPS_PER_SESSION == 0 {
            clients.push(Client::connect_to(gateway.address, &format!("/ws?user={}", clients.len() + 1)).await);
        }
        let topics = group * TOPICS_PER_GROUP..(group + 1) * TOPICS_PER_GROUP;
        let listen: Vec<_> = topics.map(|number| format!("listen-group {group} {}", topic(number))).collect();
        let client = clients.last_mut().unwrap();
        let reply = client.request(ROUTE, format!("join {group}; {}", listen.join("; ")).as_bytes()).await;
        assert_eq!(reply.status, 0, "{}", reply.text());
    }
    clients
}

/// Returns how many channels Redis has.
async fn channels(redis: &Redis) -> Option<usize> {
    let info: String = redis::cmd("INFO").arg("stats").query_async(&mut redis.connection().await).await.ok()?;
    info.lines().find_map(|line| line.strip_prefix("pubsub_channels:"))?.trim().parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_topics_are_all_heard_again_after_a_break() {
    let redis = Redis::start().await;
    let settings = "plugins: { directory: plugins, settings: { probe: { call_timeout_ms: 10000 } } }";
    let setup = Setup::redis(&redis);
    let yaml = format!("{}\n{settings}", setup.yaml);
    let gateway = connected(Setup { yaml, files: vec![("probe.wasm", probe())], ..setup }).await;
    let others = channels(&redis).await.unwrap();
    let mut clients = listeners(&gateway).await;
    let all = Some(others + TOPICS);
    assert_eq!(TOPICS, 100_032);
    eventually("all topics", || async { (channels(&redis).await == all).then_some(()) }).await;

    let last = topic(TOPICS - 1);
    for break_number in 1..=2 {
        redis.run(redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub")).await;
        for client in &mut clients {
            let packet = client.receive_any().await;
            assert!(packet.gap().is_some(), "{packet:?}");
        }
        // The sessions are told when all topics are heard.
        assert_eq!(channels(&redis).await, all);
        assert_eq!(redis.publish(&last, b"deliver user:2 always hello").await, 1);
        let push = clients[1].receive_any().await;
        assert_eq!((push.seq, push.text()), (break_number, "hello"));
        assert_eq!(redis.publish(&topic(0), b"deliver user:1 always hello").await, 1);
        assert_eq!(clients[0].receive_any().await.text(), "hello");
        // A publish is not held up: it is answered at once, because nobody hears it.
        assert_eq!(clients[0].request(ROUTE, b"publish nobody:hears x").await.status, 0);
        let refusal = clients[0].receive_any().await;
        assert_eq!((refusal.status, refusal.text()), (5, "no backend listens on nobody:hears"));
        assert_eq!(gateway.get("/readyz").await.0, 200);
    }
    // When the groups end, so do the subscriptions.
    drop(clients);
    eventually("no topics", || async { (channels(&redis).await == Some(others)).then_some(()) }).await;
}
