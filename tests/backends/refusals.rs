//! Tests of a Redis that answers with errors: what clients and operators read, and that the gateway works again once the
//! cause is gone.

use super::{BROADCAST, CHAT, REQUESTS, assert_pushed, broadcast, connected, stage, streams};
use gateway_tests::{Client, Cluster, Gateway, Redis, Setup, chat_request, eventually};
use std::{fs, path::Path};

const GAPS: &str = "gateway_bus_gaps_total";
const CONNECTED: &str = "gateway_bus_connected";
const PUBLISHED: &str = "gateway_bus_published_total";

/// Sends a request, and asserts that it is refused with status 5 and this text.
async fn is_refused(client: &mut Client, text: &str) {
    let seq = client.send(CHAT, &chat_request("mmo", 7, "refused")).await;
    loop {
        let packet = client.receive_any().await;
        if packet.gap().is_none() {
            assert_eq!((packet.seq, packet.flags, packet.status, packet.text()), (seq, 1, 5, text));
            return;
        }
    }
}

/// Waits until `/readyz` answers 503 with this reason.
async fn is_not_ready(gateway: &Gateway, because: &str) {
    eventually(&format!("/readyz 503 with {because}"), || async {
        let (status, report) = gateway.get("/readyz").await;
        (status == 503 && report.contains(because)).then_some(())
    })
    .await;
}

async fn is_ready(gateway: &Gateway) {
    eventually("/readyz 200", || async { (gateway.get("/readyz").await.0 == 200).then_some(()) }).await;
}

/// Asserts that messages pass in both directions. `seq` is the number of the client's next push.
async fn carries_both_ways(redis: &Redis, client: &mut Client, seq: u32) {
    let mut heard = redis.subscribe(REQUESTS).await;
    redis.subscribers_are(BROADCAST, 1).await;
    let request = chat_request("mmo", 7, &seq.to_string());
    client.send(CHAT, &request).await;
    assert_eq!(heard.next().await, request);
    assert_eq!(redis.publish(BROADCAST, &broadcast(7, 1)).await, 1);
    assert_pushed(client, seq, &broadcast(7, 1)).await;
}

/// Starts a Redis and a gateway that logs in as the user `gateway`, who may do everything.
async fn stage_with_user() -> (Redis, Gateway) {
    let redis = Redis::start().await;
    acl(&redis, &["on", ">secret", "allchannels", "allkeys", "+@all"]).await;
    let gateway = connected(Setup::redis_with(&redis, "username: gateway, password: secret")).await;
    (redis, gateway)
}

/// Changes the rules for the gateway's user.
async fn acl(redis: &Redis, rules: &[&str]) {
    redis.run(redis::cmd("ACL").arg("SETUSER").arg("gateway").arg(rules)).await;
}

async fn set(redis: &Redis, key: &str, value: &str) {
    redis.run(redis::cmd("CONFIG").arg("SET").arg(key).arg(value)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_redis_has_no_memory_for_is_refused_until_there_is_memory() {
    let (redis, gateway) = streams::stage().await;
    let mut client = gateway.client().await;
    set(&redis, "maxmemory", "1").await;
    for _ in 0..3 {
        is_refused(&mut client, "the bus refused the message: the memory of the bus is full").await;
    }
    let line = gateway.logged("redis refused an entry of a stream").await;
    assert!(line["fields"]["error"].as_str().unwrap().starts_with("OOM "), "{line}");
    // What is read, and what other topics carry, goes on.
    assert_eq!((gateway.get("/readyz").await.0, gateway.metric(CONNECTED).await), (200, 1.0));
    set(&redis, "maxmemory", "0").await;
    client.send(CHAT, &streams::request(1)).await;
    gateway.metric_is(PUBLISHED, 1.0).await;
    assert_eq!(streams::requests(&redis).await, (vec![1], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_at_a_master_that_becomes_read_only_is_written_once_it_is_a_master_again() {
    let (redis, gateway) = streams::stage().await;
    let master = Redis::start().await;
    let mut client = gateway.client().await;
    redis.replicate(Some(&master)).await;
    client.send(CHAT, &streams::request(1)).await;
    is_not_ready(&gateway, &format!("127.0.0.1:{} is a replica, not a master", redis.port)).await;
    client.assert_alive().await;
    redis.replicate(None).await;
    gateway.metric_is(PUBLISHED, 1.0).await;
    assert_eq!(streams::requests(&redis).await, (vec![1], 0));
    is_ready(&gateway).await;
    client.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_publish_any_more_costs_requests_and_no_delivery() {
    let (redis, gateway) = stage_with_user().await;
    let mut client = gateway.client().await;
    carries_both_ways(&redis, &mut client, 1).await;
    acl(&redis, &["-publish"]).await;
    is_refused(&mut client, "the bus refused the message").await;
    let line = gateway.logged("redis refused a publish").await;
    assert!(line["fields"]["error"].as_str().unwrap().starts_with("NOPERM "), "{line}");
    gateway.logged("redis refused PUBLISH on its own channel").await;
    gateway.logged("add `+publish` to the ACL of the gateway's user").await;
    // Deliveries go on, and the gateway stays ready.
    redis.publish(BROADCAST, &broadcast(7, 1)).await;
    assert_pushed(&mut client, 2, &broadcast(7, 1)).await;
    assert_eq!((gateway.get("/readyz").await.0, gateway.metric(CONNECTED).await), (200, 1.0));
    acl(&redis, &["+publish"]).await;
    carries_both_ways(&redis, &mut client, 3).await;
    assert_eq!(gateway.metric(GAPS).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_subscribe_any_more_is_not_ready_and_then_told_of_a_gap() {
    let (redis, gateway) = stage_with_user().await;
    let mut client = gateway.client().await;
    carries_both_ways(&redis, &mut client, 1).await;
    // Redis ends the connections that hear forbidden channels.
    acl(&redis, &["resetchannels", "&game:*", "&gateway:*"]).await;
    is_not_ready(&gateway, "it refused SUBSCRIBE: NOPERM").await;
    client.assert_alive().await;
    is_refused(&mut client, "the bus is not connected").await;
    acl(&redis, &["allchannels"]).await;
    is_ready(&gateway).await;
    carries_both_ways(&redis, &mut client, 2).await;
    assert_eq!((client.gaps.len(), gateway.metric(GAPS).await), (1, 1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_is_set_while_the_gateway_runs_is_a_reason_not_to_be_ready() {
    let (redis, gateway) = stage().await;
    let mut client = gateway.client().await;
    carries_both_ways(&redis, &mut client, 1).await;
    let mut operator = redis.connection().await;
    let commands = |all: &[&[&str]]| {
        let mut pipeline = redis::pipe();
        for command in all {
            pipeline.cmd(command[0]).arg(&command[1..]).ignore();
        }
        pipeline
    };
    let kill = |kind| ["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"];
    // Connections stay logged in until they end.
    commands(&[&["CONFIG", "SET", "requirepass", "secret"], &kill("pubsub"), &kill("normal")])
        .query_async::<()>(&mut operator)
        .await
        .unwrap();
    is_not_ready(&gateway, "it refused HELLO 3: NOAUTH").await;
    is_refused(&mut client, "the bus is not connected").await;
    commands(&[&["CONFIG", "SET", "requirepass", ""]]).query_async::<()>(&mut operator).await.unwrap();
    is_ready(&gateway).await;
    carries_both_ways(&redis, &mut client, 2).await;
    assert_eq!(gateway.metric(GAPS).await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_loads_its_data_is_waited_for() {
    // Redis sleeps after each key that it loads. It answers meanwhile, with an error.
    let slow = ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"];
    let mut redis = Redis::start_with_arguments(&slow).await;
    let gateway = connected(Setup::redis(&redis)).await;
    let mut client = gateway.client().await;
    carries_both_ways(&redis, &mut client, 1).await;
    let mut keys = redis::pipe();
    for key in 0..1500 {
        keys.set(key, "x".repeat(100)).ignore();
    }
    keys.cmd("SAVE").ignore();
    keys.query_async::<()>(&mut redis.connection().await).await.unwrap();
    redis.kill().await;
    let waits = async {
        is_not_ready(&gateway, "it refused PING: LOADING Redis is loading the dataset in memory").await;
    };
    tokio::join!(redis.restart(), waits);
    is_ready(&gateway).await;
    carries_both_ways(&redis, &mut client, 2).await;
    assert_eq!((client.gaps.len(), gateway.metric(GAPS).await), (1, 1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_cannot_save_its_data_still_carries_messages() {
    let (redis, gateway) = stage().await;
    let mut client = gateway.client().await;
    carries_both_ways(&redis, &mut client, 1).await;
    set(&redis, "save", "3600 1").await;
    let mut operator = redis.connection().await;
    let get = redis::cmd("CONFIG").arg("GET").arg("dir").to_owned();
    let (_, folder): (String, String) = get.query_async(&mut operator).await.unwrap();
    // The file cannot be written where there is a directory.
    fs::create_dir(Path::new(&folder).join("dump.rdb")).unwrap();
    redis.run(&redis::cmd("BGSAVE")).await;
    eventually("a refused PING", || async {
        let error = redis::cmd("PING").exec_async(&mut operator.clone()).await.err()?;
        error.to_string().contains("MISCONF").then_some(())
    })
    .await;
    carries_both_ways(&redis, &mut client, 2).await;
    for kind in ["pubsub", "normal"] {
        let kill = ["KILL", "TYPE", kind, "SKIPME", "yes"];
        redis::cmd("CLIENT").arg(&kill[..]).exec_async(&mut operator).await.unwrap();
    }
    gateway.metric_is(GAPS, 1.0).await;
    carries_both_ways(&redis, &mut client, 3).await;
    is_ready(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_no_stream_is_left_out_if_only_sessions_listen_to_it() {
    let redis = Redis::start().await;
    let keys = "streams: [\"broadcast:user:*\"], probe_interval_ms: 200";
    let gateway = connected(Setup::redis_with(&redis, keys)).await;
    let mut seven = gateway.client_of(7).await;
    gateway.logged("reading a stream").await;
    let key = |user: i32| format!("broadcast:user:{user}");
    redis.run(redis::cmd("SET").arg(key(8)).arg("no stream")).await;
    let mut eight = gateway.client_of(8).await;
    let line = gateway.logged("redis refuses a stream").await;
    assert_eq!(line["fields"]["stream"], key(8), "{line}");
    assert!(line["fields"]["error"].as_str().unwrap().contains("WRONGTYPE"), "{line}");
    let mut heard = redis.subscribe(REQUESTS).await;
    seven.send(CHAT, &chat_request("mmo", 7, "hi")).await;
    assert_eq!(heard.next().await, chat_request("mmo", 7, "hi"));
    let add = async |user: i32, number: i64| {
        redis.run(redis::cmd("XADD").arg(key(user)).arg("*").arg("payload").arg(broadcast(user, number))).await;
    };
    add(7, 1).await;
    assert_pushed(&mut seven, 1, &broadcast(7, 1)).await;
    assert_eq!(gateway.get("/readyz").await.0, 200);
    // It is read as soon as it is a stream.
    redis.run(redis::cmd("DEL").arg(key(8))).await;
    eventually("a stream that is read", || async {
        let is_begin = |line: &serde_json::Value| {
            line["fields"]["message"] == "reading a stream" && line["fields"]["stream"] == key(8)
        };
        gateway.log_lines().iter().any(is_begin).then_some(())
    })
    .await;
    add(8, 1).await;
    assert_pushed(&mut eight, 1, &broadcast(8, 1)).await;
    assert_eq!(gateway.metric(GAPS).await, 1.0, "nobody knows what was in it before");
    // One that is replaced while it is read does not hold up the other for long.
    redis.run(redis::cmd("SET").arg(key(7)).arg("no stream")).await;
    for number in 2..=20 {
        add(8, number).await;
        assert_pushed(&mut eight, number as u32, &broadcast(8, number)).await;
    }
    is_ready(&gateway).await;
    seven.send(CHAT, &chat_request("mmo", 7, "still here")).await;
    assert_eq!(heard.next().await, chat_request("mmo", 7, "still here"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_may_not_be_read_for_a_while_is_read_on_where_it_stopped() {
    let redis = Redis::start().await;
    acl(&redis, &["on", ">secret", "allchannels", "allkeys", "+@all"]).await;
    let keys = "username: gateway, password: secret, streams: [\"broadcast:user:*\"], probe_interval_ms: 200";
    let gateway = connected(Setup::redis_with(&redis, keys)).await;
    let mut client = gateway.client_of(7).await;
    gateway.logged("reading a stream").await;
    let add = async |number: i64| {
        let mut xadd = redis::cmd("XADD");
        redis.run(xadd.arg("broadcast:user:7").arg("*").arg("payload").arg(broadcast(7, number))).await;
    };
    add(1).await;
    assert_pushed(&mut client, 1, &broadcast(7, 1)).await;
    acl(&redis, &["resetkeys"]).await;
    gateway.logged("redis refuses a stream").await;
    add(2).await;
    add(3).await;
    is_ready(&gateway).await;
    acl(&redis, &["allkeys"]).await;
    for number in 2..=3 {
        assert_pushed(&mut client, number, &broadcast(7, number.into())).await;
    }
    assert_eq!(gateway.metric(GAPS).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_down_refuses_and_is_used_again_when_it_is_whole() {
    let mut cluster = Cluster::start(0).await;
    let yaml = format!("games: [{{ id: mmo }}]\n{}", cluster.yaml(""));
    let gateway = connected(Setup { yaml, ..Setup::default() }).await;
    let used = [cluster.slot(BROADCAST).await, cluster.slot(REQUESTS).await].map(Cluster::first_owner);
    let unused = (0..3).find(|server| !used.contains(server)).unwrap();
    let mut client = gateway.client_of(7).await;
    let mut requests = cluster.subscribe(REQUESTS).await;
    let request = chat_request("mmo", 7, "before");
    client.send(CHAT, &request).await;
    while requests.next().await != request {}

    // By default, a Cluster that has lost a part of its slots refuses everything except sharded publish and subscribe.
    for server in &cluster.servers {
        set(server, "cluster-allow-pubsubshard-when-down", "no").await;
    }
    cluster.servers[unused].kill().await;
    eventually("the Cluster is down", || async {
        let mut connection = cluster.servers[used[1]].connection().await;
        let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut connection).await.ok()?;
        info.contains("cluster_state:fail").then_some(())
    })
    .await;
    let (status, report) = gateway.get("/readyz").await;
    assert!(status == 503 && report.contains(&format!("127.0.0.1:{}", cluster.servers[unused].port)), "{report}");
    let seq = client.send(CHAT, &chat_request("mmo", 7, "down")).await;
    let refusal = loop {
        let packet = client.receive_any().await;
        if packet.flags & 1 == 1 && packet.seq == seq {
            break packet;
        }
    };
    assert_eq!((refusal.status, refusal.text()), (5, "the bus refused the message"));
    let line = gateway.logged("redis refused a publish").await;
    assert!(line["fields"]["error"].as_str().unwrap().starts_with("CLUSTERDOWN "), "{line}");

    cluster.servers[unused].restart().await;
    is_ready(&gateway).await;
    let mut requests = cluster.subscribe(REQUESTS).await;
    let request = chat_request("mmo", 7, "after");
    client.send(CHAT, &request).await;
    while requests.next().await != request {}
    cluster.is_heard(BROADCAST).await;
    // A master refuses for a little longer than the others, until it knows that the Cluster is whole.
    eventually("a master that publishes", || async {
        (cluster.publish(BROADCAST, &broadcast(7, 1)).await == Some(1)).then_some(())
    })
    .await;
    assert_pushed(&mut client, 1, &broadcast(7, 1)).await;
}
