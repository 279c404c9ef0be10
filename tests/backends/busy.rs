//! Tests of entries of streams for a plugin that has too much to do: they wait in Redis, none is lost, and they hold up
//! nothing else.

use super::connected;
use gateway_tests::{Client, Gateway, Redis, Setup, eventually, probe, probe_as};
use std::collections::BTreeMap;

const CALLS: &str = "gateway_plugin_calls_total{outcome=\"ok\",plugin=";
const BUSY: &str = "gateway_messages_dropped_total{reason=\"plugin_busy\"}";

/// Entries that are added with one write.
#[derive(Default)]
struct Entries(redis::Pipeline);

impl Entries {
    fn add(&mut self, stream: &str, script: &str) {
        self.0.cmd("XADD").arg(stream).arg("*").arg("payload").arg(script).ignore();
    }

    /// Makes the plugin prove slow, so that it is called on its offload thread, whose queue is shorter than the streams.
    fn slow_down(&mut self, stream: &str) {
        (0..3).for_each(|_| self.add(stream, "spin 60"));
    }

    async fn send(&self, redis: &Redis) {
        let () = self.0.query_async(&mut redis.connection().await).await.unwrap();
    }
}

/// Starts a gateway at which the plugin `probe` subscribes to `topics`, and with these settings of other plugins.
async fn start(redis: &Redis, streams: &str, topics: &str, others: &str) -> Gateway {
    let mut setup = Setup::redis_with(redis, &format!("streams: {streams}, probe_interval_ms: 60000"));
    let settings = format!("probe: {{ config: {{ topics: {topics} }} }}{others}");
    setup.yaml += &format!("\nplugins: {{ directory: plugins, settings: {{ {settings} }} }}");
    setup.files.push(("probe.wasm", probe()));
    if !others.is_empty() {
        setup.files.push(("zebra.wasm", probe_as("zebra", 0, false)));
    }
    connected(setup).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_entries_of_a_stream_wait_for_a_slow_plugin() {
    const ENTRIES: u32 = 3000;
    let redis = Redis::start().await;
    let gateway = start(&redis, "[news]", "[news]", "").await;
    let mut client = Client::connect_to(gateway.address, "/ws?user=7").await;
    let mut entries = Entries::default();
    entries.slow_down("news");
    (1..=ENTRIES).for_each(|i| entries.add("news", &format!("spin 1; deliver user:7 always {i}")));
    entries.send(&redis).await;
    for i in 1..=ENTRIES {
        let push = client.receive_any().await;
        assert_eq!((push.seq, push.text()), (i, &*i.to_string()));
    }
    assert_eq!(gateway.metric(BUSY).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_entries_of_many_streams_wait_for_a_slow_plugin() {
    const STREAMS: usize = 24;
    const EACH: usize = 150;
    let redis = Redis::start().await;
    let topics: Vec<_> = (0..STREAMS).map(|i| format!("s{i}")).collect();
    let gateway = start(&redis, "['s*']", &format!("{topics:?}"), "").await;
    let mut client = Client::connect_to(gateway.address, "/ws?user=7").await;
    let mut entries = Entries::default();
    entries.slow_down("s0");
    for i in 0..EACH {
        (0..STREAMS).for_each(|stream| {
            entries.add(&format!("s{stream}"), &format!("spin 1; deliver user:7 always {stream} {i}"))
        });
    }
    entries.send(&redis).await;
    let mut next = BTreeMap::new();
    for _ in 0..STREAMS * EACH {
        let push = client.receive_any().await;
        let (stream, number) = push.text().split_once(' ').unwrap();
        let next: &mut usize = next.entry(stream.to_owned()).or_default();
        assert_eq!(number, next.to_string(), "of the stream {stream}");
        *next += 1;
    }
    assert_eq!(gateway.metric(BUSY).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_plugin_holds_up_only_the_streams_that_it_hears() {
    const ENTRIES: u32 = 2000;
    let redis = Redis::start().await;
    let others = ", zebra: { routes: [0x71], config: { topics: [slow] } }";
    let gateway = start(&redis, "[slow, calm, new]", "[calm, plain]", others).await;
    let mut client = Client::connect_to(gateway.address, "/ws?user=7").await;
    let mut entries = Entries::default();
    entries.slow_down("slow");
    (0..ENTRIES).for_each(|_| entries.add("slow", "spin 10"));
    entries.send(&redis).await;
    // The offload thread takes no more of them for now.
    let read = "gateway_bus_stream_entries_total";
    eventually("the queue is full", || async { (gateway.metric(read).await >= 1024.0).then_some(()) }).await;
    let mut entry = Entries::default();
    entry.add("calm", "deliver user:7 always from a stream");
    entry.send(&redis).await;
    assert_eq!(client.receive_any().await.text(), "from a stream");
    // A session begins to listen to a stream, for which all publishes wait.
    client.send(0x70, b"listen new; publish plain deliver user:7 always from a channel").await;
    assert_eq!(client.receive_any().await.text(), "");
    assert_eq!(client.receive_any().await.text(), "from a channel");
    let calls = gateway.metric(&format!("{CALLS}\"zebra\"}}")).await;
    assert!(calls < 500.0, "the others waited for {calls} calls of the slow plugin");
}
