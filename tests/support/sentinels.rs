//! A Redis master with a replica, and three Sentinels that watch over them.

use crate::{Redis, ReservedPort, Subscription, connect_to_redis, eventually};
use std::{fs, process::Stdio};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// The name of the master at the Sentinels.
pub const MASTER: &str = "main";

/// Running servers and Sentinels. They are killed when this value is dropped.
pub struct Sentinels {
    /// The servers. The first one is the master at the start.
    pub servers: [Redis; 2],
    sentinels: Vec<(ReservedPort, Child)>,
    _folder: TempDir,
}

impl Sentinels {
    /// Starts the servers and the Sentinels, and waits until the Sentinels know each other and the replica.
    pub async fn start() -> Self {
        let master = Redis::start().await;
        let port = master.port.to_string();
        let replica = Redis::start_with_arguments(&["--replicaof", "127.0.0.1", &port]).await;
        let folder = tempfile::tempdir().unwrap();
        let sentinels = (0..3).map(|_| start_sentinel(&folder, master.port)).collect();
        let all = Self { servers: [master, replica], sentinels, _folder: folder };
        for sentinel in 0..3 {
            eventually("the Sentinels know each other and the replica", || async {
                let text = all.ask(sentinel, &["INFO", "sentinel"]).await?;
                text.contains("status=ok").then_some(())?;
                text.contains("slaves=1,sentinels=3").then_some(())
            })
            .await;
        }
        all
    }

    /// Returns the settings of `redis` in gateway.yaml, with more keys of the section.
    #[must_use]
    pub fn yaml(&self, master: &str, keys: &str) -> String {
        let addrs: Vec<_> = self.sentinels.iter().map(|(port, _)| format!("\"127.0.0.1:{}\"", port.number())).collect();
        format!("redis: {{ sentinel: {{ master: {master}, addrs: [{}] }}{keys} }}", addrs.join(", "))
    }

    /// Makes a Sentinel replace the master.
    pub async fn fail_over(&self) {
        eventually("a failover begins", || async {
            (self.ask(0, &["SENTINEL", "FAILOVER", MASTER]).await? == "OK").then_some(())
        })
        .await;
    }

    /// Subscribes to the event with which a Sentinel tells that another server is the master.
    pub async fn switches(&self) -> Subscription {
        Subscription::at(self.sentinels[0].0.number(), "+switch-master").await
    }

    async fn ask(&self, sentinel: usize, command: &[&str]) -> Option<String> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.sentinels[sentinel].0.number())).unwrap();
        let mut connection = connect_to_redis(&client).await.ok()?;
        let mut asked = redis::cmd(command[0]);
        asked.arg(&command[1..]);
        asked.query_async(&mut connection).await.ok()
    }
}

fn start_sentinel(folder: &TempDir, master: u16) -> (ReservedPort, Child) {
    let port = ReservedPort::reserve();
    let number = port.number();
    let file = folder.path().join(format!("{number}.conf"));
    let text = format!(
        "port {number}\nbind 127.0.0.1\ndir {}\nsentinel monitor {MASTER} 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 3000\n",
        folder.path().display()
    );
    fs::write(&file, text).unwrap();
    let sentinel = Command::new("redis-server")
        .arg(file)
        .arg("--sentinel")
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("redis-server starts: `tests/install redis-server` installs it");
    (port, sentinel)
}
