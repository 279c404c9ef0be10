//! Tests of entries of streams for a plugin that has too much to do: they wait in Redis, and none is lost.

use super::connected;
use gateway_tests::{Client, Redis, Setup, probe};

const ENTRIES: u32 = 3000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_entries_of_a_stream_wait_for_a_slow_plugin() {
    let redis = Redis::start().await;
    let mut setup = Setup::redis_with(&redis, "streams: [news]");
    setup.yaml += "\nplugins: { directory: plugins, settings: { probe: { config: { topics: [news] } } } }";
    setup.files.push(("probe.wasm", probe()));
    let gateway = connected(setup).await;
    let mut client = Client::connect_to(gateway.address, "/ws?user=7").await;
    let mut pipeline = redis::pipe();
    let mut add = |script: &str| {
        pipeline.cmd("XADD").arg("news").arg("*").arg("payload").arg(script).ignore();
    };
    // The plugin proves slow, so that it is called on its offload thread, whose queue is shorter than the stream.
    (0..3).for_each(|_| add("spin 60"));
    (1..=ENTRIES).for_each(|i| add(&format!("spin 1; deliver user:7 always {i}")));
    let () = pipeline.query_async(&mut redis.connection().await).await.unwrap();
    for i in 1..=ENTRIES {
        let push = client.receive_any().await;
        assert_eq!((push.seq, push.text()), (i, &*i.to_string()));
    }
    assert_eq!(gateway.metric("gateway_messages_dropped_total{reason=\"plugin_busy\"}").await, 0.0);
}
