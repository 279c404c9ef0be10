//! The storm test: ten thousand hostile connections and every hostile guest at the same time. A well-behaved client
//! must hardly notice them, and the gateway's memory must return to its earlier level.

use crate::{
    attackers::{self, AttackKind},
    bystander::{Bystander, percentile},
    files,
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

/// The number of concurrent hostile connections of each kind. Most of them are silent. Only a few send all the time,
/// since they use the same processors as the gateway, which remote clients would not do.
const CONNECTIONS: [(AttackKind, usize); 13] = [
    (AttackKind::HalfHandshakes, 2000),
    (AttackKind::HugeFrameHeads, 4000),
    (AttackKind::Descriptors, 3966),
    (AttackKind::SlowReaders, 4),
    (AttackKind::HeaderFlood, 4),
    (AttackKind::Fragments, 4),
    (AttackKind::PingFlood, 4),
    (AttackKind::Garbage, 4),
    (AttackKind::TextFrames, 4),
    (AttackKind::ConnectAndReset, 4),
    (AttackKind::MalformedPackets, 2),
    (AttackKind::HugeChat, 2),
    (AttackKind::CloseInTheSameWrite, 2),
];
/// The file descriptors that the test process needs: one for each hostile connection, and some for everything else.
const DESCRIPTORS: u64 = 11_000;

/// The niceness of the hostile clients. They yield the processors to the gateway and its players, since remote clients
/// would not use them at all.
const ATTACKER_NICENESS: i32 = 19;

/// How long the client's heartbeats are measured without a storm.
const QUIET: Duration = Duration::from_secs(4);
/// The largest number of measurements. One measurement has to be within the bounds, since other work on the machine
/// disturbs single measurements.
const ATTEMPTS: usize = 3;
/// How long the memory may take to return to its earlier level.
const PATIENCE: Duration = Duration::from_secs(60);

/// The results of the measurements.
pub(crate) struct StormReport {
    /// The 99th percentile of a heartbeat's latency without the storm and in the storm, for each attempt.
    latencies: Vec<(Duration, Duration)>,
    /// The resident memory in bytes before the first storm, which warms up.
    cold: u64,
    /// The resident memory in bytes after the first storm, and after the last storm.
    memory: (u64, u64),
}

impl StormReport {
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

/// Returns whether the memory has returned to within 10 % of its earlier level.
pub(crate) fn returned((before, after): (u64, u64)) -> bool {
    after <= before + before / 10
}

impl fmt::Display for StormReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (quiet, storm) in &self.latencies {
            writeln!(f, "a heartbeat's p99: {quiet:.1?} without the storm, {storm:.1?} in it")?;
        }
        let (before, after) = self.memory;
        let [cold, before, after] = [self.cold, before, after].map(|bytes| bytes >> 20);
        writeln!(
            f,
            "resident memory: {cold} MiB before the storm that warms up, {before} MiB after it, {after} MiB in the end"
        )
    }
}

/// Measures a client without a storm and in a storm.
pub(crate) async fn measure_storms() -> StormReport {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    assert!(
        limit >= DESCRIPTORS,
        "the limit of open files is {limit}, and the storm needs more: run `ulimit -n {DESCRIPTORS}`"
    );
    let redis = Redis::start().await;
    let gateway = Gateway::start(Setup { open_files: None, ..files::setup(redis.port, "") }).await;
    let cold = gateway.resident_bytes();
    storm(&gateway, redis.port).await;
    let before = settled(&gateway, u64::MAX).await;
    let mut weather = StormReport { latencies: Vec::new(), cold, memory: (before, before) };
    for _ in 0..ATTEMPTS {
        weather.latencies.push(measure(&gateway, redis.port).await);
        weather.memory.1 = settled(&gateway, before).await;
        if weather.defects().is_empty() {
            break;
        }
    }
    weather
}

/// Returns the 99th percentile of a heartbeat's latency without a storm and in a storm.
async fn measure(gateway: &Gateway, redis: u16) -> (Duration, Duration) {
    let bystander = Bystander::start(gateway).await;
    time::sleep(QUIET).await;
    let quiet = percentile(&bystander.finish().await, 99);
    let bystander = Bystander::start(gateway).await;
    storm(gateway, redis).await;
    (quiet, percentile(&bystander.finish().await, 99))
}

/// Returns the resident memory as soon as it is close to `before`, or after a deadline. The hostile files and settings
/// have been removed by then.
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

/// Runs every hostile guest, one after the other, while ten thousand hostile clients attack.
async fn storm(gateway: &Gateway, redis: u16) {
    let over = Arc::new(watch::Sender::new(false));
    let attackers = attackers(gateway.address, Arc::clone(&over));
    for change in files::hostile_guests() {
        files::apply(change, gateway, redis).await;
    }
    over.send_replace(true);
    time::timeout(PATIENCE, tokio::task::spawn_blocking(|| attackers.join())).await.unwrap().unwrap().unwrap();
    files::restore(gateway, redis);
}

/// Runs the hostile clients on their own threads, with the lowest priority, until the storm is over.
fn attackers(gateway: SocketAddr, over: Arc<watch::Sender<bool>>) -> JoinHandle<()> {
    let attack = async move {
        let mut clients = JoinSet::new();
        let mut rng = Rng::with_seed(1);
        let never = Instant::now() + Duration::from_secs(3600);
        for (way, connections) in CONNECTIONS {
            for _ in 0..connections {
                clients.spawn(attackers::client(gateway, way, rng.fork(), never));
            }
        }
        // An error means that the test is over.
        let _ = over.subscribe().wait_for(|over| *over).await;
        clients.shutdown().await;
    };
    thread::spawn(move || {
        let yielding = || {
            // If the process may not change its priority, the clients compete with the gateway.
            let _ = nice(ATTACKER_NICENESS);
        };
        let mut runtime = runtime::Builder::new_multi_thread();
        runtime.worker_threads(2).on_thread_start(yielding).enable_all().build().unwrap().block_on(attack);
    })
}

#[test]
fn the_storm_has_ten_thousand_connections() {
    assert_eq!(CONNECTIONS.iter().map(|(_, connections)| connections).sum::<usize>(), 10_000);
    assert_eq!(CONNECTIONS.map(|(way, _)| way).len(), AttackKind::ALL.len());
}
