//! The storm: ten thousand hostile connections and every hostile guest at the same time. A well-behaved client hardly notices, and
//! the gateway's memory returns to where it was.

use crate::{
    bystander::{Bystander, percentile},
    files,
    strangers::{self, Way},
};
use fastrand::Rng;
use gateway_tests::{Gateway, Redis, Setup};
use rustix::process::{Resource, getrlimit, nice};
use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::{
    runtime,
    sync::watch,
    task::JoinSet,
    time::{self, Instant},
};

/// Hostile connections at a time, by what they do. Those that are silent are many; those that send all the time use up the machine that
/// the gateway has to share with them, which remote ones would not.
const CONNECTIONS: [(Way, usize); 13] = [
    (Way::HalfHandshakes, 2000),
    (Way::HugeFrameHeads, 4000),
    (Way::Descriptors, 3966),
    (Way::SlowReaders, 4),
    (Way::HeaderFlood, 4),
    (Way::Fragments, 4),
    (Way::PingFlood, 4),
    (Way::Garbage, 4),
    (Way::TextFrames, 4),
    (Way::ConnectAndReset, 4),
    (Way::MalformedPackets, 2),
    (Way::HugeChat, 2),
    (Way::CloseInTheSameWrite, 2),
];
/// The descriptors that it takes to be hostile to this extent, with some for everything else.
const DESCRIPTORS: u64 = 11_000;

/// Hostile clients give way to the gateway and its players, as remote ones do.
const NICE: i32 = 19;

/// How long the client's heartbeats are measured without a storm.
const QUIET: Duration = Duration::from_secs(4);
/// Other work on the machine disturbs a single measurement: one of so many has to be within the bounds.
const ATTEMPTS: usize = 3;
/// How long memory may take to return.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was measured.
pub(crate) struct Weather {
    /// The 99th percentile of a heartbeat without the storm and in it, in each attempt.
    latencies: Vec<(Duration, Duration)>,
    /// Resident memory after the storm that warms up, and after the others.
    memory: (u64, u64),
}

impl Weather {
    pub(crate) fn defects(&self) -> Vec<String> {
        let mut defects = Vec::new();
        if !self.latencies.iter().any(|(quiet, storm)| *storm <= 2 * *quiet + Duration::from_millis(5)) {
            defects.push("a heartbeat's p99 in the storm is over twice the quiet one plus 5 ms".to_owned());
        }
        if !returned(self.memory) {
            defects.push("resident memory did not return to within 10 % of where it began".to_owned());
        }
        defects
    }
}

fn returned((before, after): (u64, u64)) -> bool {
    after <= before + before / 10
}

impl fmt::Display for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (quiet, storm) in &self.latencies {
            writeln!(f, "a heartbeat's p99: {quiet:.1?} without the storm, {storm:.1?} in it")?;
        }
        let (before, after) = self.memory;
        writeln!(f, "resident memory: {} MiB before the storms, {} MiB after them", before >> 20, after >> 20)
    }
}

/// Measures a client in quiet and in storm.
pub(crate) async fn weather() -> Weather {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    assert!(
        limit >= DESCRIPTORS,
        "the limit of open files is {limit}: `ulimit -n {DESCRIPTORS}` lets the storm happen"
    );
    let redis = Redis::start().await;
    let gateway = Gateway::start(Setup { open_files: None, ..files::setup(redis.port, "") }).await;
    storm(&gateway, redis.port).await;
    let before = settled(&gateway, u64::MAX).await;
    let mut weather = Weather { latencies: Vec::new(), memory: (before, before) };
    for _ in 0..ATTEMPTS {
        weather.latencies.push(measure(&gateway, redis.port).await);
        weather.memory.1 = settled(&gateway, before).await;
        if weather.defects().is_empty() {
            break;
        }
    }
    weather
}

/// The 99th percentile of a heartbeat in quiet and in a storm.
async fn measure(gateway: &Gateway, redis: u16) -> (Duration, Duration) {
    let bystander = Bystander::start(gateway).await;
    time::sleep(QUIET).await;
    let quiet = percentile(&bystander.finish().await, 99);
    let bystander = Bystander::start(gateway).await;
    storm(gateway, redis).await;
    (quiet, percentile(&bystander.finish().await, 99))
}

/// Resident memory as soon as it is near to where it was before, or after a while; without hostile files and settings.
async fn settled(gateway: &Gateway, before: u64) -> u64 {
    gateway.metric_is("gateway_sessions", 0.0).await;
    let deadline = Instant::now() + if before == u64::MAX { QUIET } else { PATIENCE };
    loop {
        let now = gateway.resident_bytes();
        if Instant::now() > deadline || (before != u64::MAX && returned((before, now))) {
            return now;
        }
        time::sleep(Duration::from_millis(500)).await;
    }
}

/// Every hostile guest, one after the other, while ten thousand hostile clients are at work.
async fn storm(gateway: &Gateway, redis: u16) {
    let over = Arc::new(watch::Sender::new(false));
    let crowd = crowd(gateway.address, Arc::clone(&over));
    for change in files::hostile_guests() {
        files::happen(change, gateway, redis).await;
    }
    over.send_replace(true);
    time::timeout(PATIENCE, tokio::task::spawn_blocking(|| crowd.join())).await.unwrap().unwrap().unwrap();
    files::mend(gateway, redis);
}

/// Hostile clients on threads of their own, with the least priority, until it is over.
fn crowd(gateway: SocketAddr, over: Arc<watch::Sender<bool>>) -> JoinHandle<()> {
    let attack = async move {
        let mut clients = JoinSet::new();
        let mut rng = Rng::with_seed(1);
        let never = Instant::now() + Duration::from_secs(3600);
        for (way, connections) in CONNECTIONS {
            for _ in 0..connections {
                clients.spawn(strangers::client(gateway, way, rng.fork(), never));
            }
        }
        // An error means that the test is over.
        let _ = over.subscribe().wait_for(|over| *over).await;
        clients.shutdown().await;
    };
    thread::spawn(move || {
        let yielding = || {
            // Without the right to, they compete with the gateway.
            let _ = nice(NICE);
        };
        let mut runtime = runtime::Builder::new_multi_thread();
        runtime.worker_threads(2).on_thread_start(yielding).enable_all().build().unwrap().block_on(attack);
    })
}

#[test]
fn the_storm_has_ten_thousand_connections() {
    assert_eq!(CONNECTIONS.iter().map(|(_, connections)| connections).sum::<usize>(), 10_000);
    assert_eq!(CONNECTIONS.map(|(way, _)| way).len(), Way::ALL.len());
}
