//! A test of hundreds of files that are added to the plugins directory at once.

use gateway_tests::{Gateway, Setup, greeter, put};
use std::time::Duration;
use tokio::time::{self, Instant};

/// The number of files.
const FILES: usize = 500;
/// How long the gateway may take to load or reject all files, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes a minute: `make chaos` runs it"]
async fn five_hundred_files_added_at_once_are_each_loaded_or_rejected_exactly_once() {
    let gateway = Gateway::start(Setup::default()).await;
    let mut client = gateway.client().await;
    // There are not more routes for plugins.
    let good: Vec<_> = (0x10..=0xff).map(|route: u8| (format!("p{route}"), route)).collect();
    let bad: Vec<_> = (good.len()..FILES).map(|number| format!("bad{number}")).collect();
    for (name, route) in &good {
        put(&gateway.plugin(name), &greeter(name, name, &[*route]));
    }
    for name in &bad {
        put(&gateway.plugin(name), name.as_bytes());
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        client.assert_alive().await;
        assert_eq!(gateway.get("/readyz").await.0, 200);
        let (_, metrics) = gateway.get("/metrics").await;
        let lines = |start: &str, end: &str| {
            metrics.lines().filter(|line| line.starts_with(start) && line.ends_with(end)).count()
        };
        let loaded = lines("gateway_plugin_generation{plugin=\"p", "} 1");
        let rejected = lines("gateway_plugin_reloads_total{plugin=\"bad", "} 1");
        if (loaded, rejected) == (good.len(), bad.len()) {
            break;
        }
        assert!(Instant::now() < deadline, "{loaded} files are loaded and {rejected} rejected");
        time::sleep(Duration::from_millis(100)).await;
    }
    for (name, route) in &good {
        assert_eq!(client.request(*route, b"").await.text(), name);
    }
}
