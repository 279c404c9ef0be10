//! What is measured.

/// A load that is put on each server in turn.
pub(crate) struct Work {
    /// The first column of its row.
    pub(crate) name: String,
    /// What `gateway-client load` is asked for.
    pub(crate) load: String,
    /// What the gateway may come to, as a multiple of the baseline.
    pub(crate) target: Option<f64>,
    /// Seconds that are measured, if not the usual ones.
    pub(crate) seconds: Option<u32>,
    /// It is measured once; otherwise in every round.
    pub(crate) once: bool,
}

impl Work {
    fn new(name: impl Into<String>, load: impl Into<String>) -> Self {
        Self { name: name.into(), load: load.into(), target: None, seconds: None, once: false }
    }

    fn target(self, target: f64) -> Self {
        Self { target: Some(target), ..self }
    }

    /// Whether it involves Redis.
    pub(crate) fn has_bus(&self) -> bool {
        !self.load.starts_with("ping") && !self.load.starts_with("idle")
    }
}

/// Closed loops: what a message costs.
pub(crate) fn messages() -> Vec<Work> {
    vec![
        Work::new("client to Redis, 64 B, 16 pipelined", "request --pipeline 16").target(1.4),
        Work::new("client to Redis, 64 B, one at a time", "request --pipeline 1").target(1.15),
        Work::new("client to Redis, 1 KiB, 16 pipelined", "request --pipeline 16 --payload 1024"),
        // With more, what is under way grows to tens of megabytes, and the queues are measured instead.
        Work::new("client to Redis, 64 KiB, 4 pipelined", "request --pipeline 4 --payload 65536"),
        Work::new("Redis to client, 64 B, 16 pipelined", "deliver --pipeline 16").target(1.3),
        Work::new("heartbeat, 64 B, one at a time", "ping --pipeline 1").target(1.15),
        Work::new("heartbeat, 64 B, 16 pipelined", "ping --pipeline 16"),
    ]
}

/// Open loops: what a player waits for.
pub(crate) fn loops() -> Vec<Work> {
    [1_000, 20_000].map(|rate| Work::new(format!("{rate}/s"), format!("loop --rate {rate}")).target(1.2)).into()
}

/// The same messages, spread over ever more sessions.
pub(crate) fn crowds(most: u64) -> Vec<Work> {
    let crowd = |sessions| Work::new(format!("{sessions} sessions"), format!("loop --rate 20000 --clients {sessions}"));
    [10, 100, 1_000, 10_000].map(|sessions| crowd(most.min(sessions))).into()
}

/// The gateway pings each session so often, as its default is: in a time of this length once.
const PING_INTERVAL_S: u32 = 25;

/// Sessions that do nothing: to open them, and to hold them for a while.
pub(crate) fn idle(most: u64) -> [Work; 2] {
    let load = format!("idle --clients {most}");
    let opened = Work { seconds: Some(1), ..Work::new(format!("{most} sessions opened"), &load) };
    let held = Work { seconds: Some(PING_INTERVAL_S), once: true, ..Work::new(format!("{most} sessions held"), &load) };
    [opened, held]
}
