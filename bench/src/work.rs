//! The loads under which the servers are measured.

use crate::contender::Contender;

/// The servers with a bus, in the order of their turns.
const WITH_BUS: &[Contender] = &[Contender::Gateway, Contender::Baseline, Contender::Node];

/// All servers, for loads without Redis.
const ALL: &[Contender] = &[Contender::Gateway, Contender::Baseline, Contender::Node, Contender::Uws];

/// A load under which each server is measured in turn.
pub(crate) struct Work {
    /// The first cell of the row.
    pub(crate) name: String,
    /// The arguments of `gateway-client load`, or for the game those of `gateway-client`.
    pub(crate) load: String,
    /// The name of the table, if `--only` selects it by its name.
    pub(crate) table: &'static str,
    /// The servers that are measured, in the order of their turns.
    pub(crate) lineup: &'static [Contender],
    /// The largest allowed figure of the gateway, as a multiple of the baseline's.
    pub(crate) target: Option<f64>,
    /// The largest allowed figure of the gateway, as a multiple of that of uWebSockets.
    pub(crate) uws_target: Option<f64>,
    /// Whether the gateway is also measured over TLS.
    pub(crate) has_tls: bool,
    /// The largest allowed figure of the gateway over TLS, as a multiple of its figure without.
    pub(crate) tls_target: Option<f64>,
    /// The measured seconds, if they differ from those on the command line.
    pub(crate) seconds: Option<u32>,
    /// The seconds before the measured ones.
    pub(crate) warmup: u32,
    /// Whether the load is measured once and not in every round.
    pub(crate) once: bool,
}

impl Work {
    pub(crate) fn new(name: impl Into<String>, load: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            load: load.into(),
            table: "",
            lineup: WITH_BUS,
            target: None,
            uws_target: None,
            has_tls: false,
            tls_target: None,
            seconds: None,
            warmup: 1,
            once: false,
        }
    }

    /// Makes this a row of a table with these servers.
    pub(crate) fn among(self, table: &'static str, lineup: &'static [Contender]) -> Self {
        Self { table, lineup, ..self }
    }

    fn target(self, target: f64) -> Self {
        Self { target: Some(target), ..self }
    }

    fn uws_target(self, target: f64) -> Self {
        Self { lineup: ALL, uws_target: Some(target), ..self }
    }

    fn tls(self) -> Self {
        Self { has_tls: true, ..self }
    }

    fn tls_target(self, target: f64) -> Self {
        Self { has_tls: true, tls_target: Some(target), ..self }
    }

    /// Whether the load involves Redis.
    pub(crate) fn has_bus(&self) -> bool {
        !self.load.starts_with("ping") && !self.load.starts_with("idle")
    }
}

/// Closed loops, for the cost of a message.
pub(crate) fn messages() -> Vec<Work> {
    vec![
        Work::new("client to Redis, 64 B, 16 pipelined", "request --pipeline 16").target(1.4).tls(),
        Work::new("client to Redis, 64 B, one at a time", "request --pipeline 1").target(1.15),
        Work::new("client to Redis, 1 KiB, 16 pipelined", "request --pipeline 16 --payload 1024"),
        // With a longer pipeline, tens of megabytes are under way, and the figures are those of the queues.
        Work::new("client to Redis, 64 KiB, 4 pipelined", "request --pipeline 4 --payload 65536"),
        Work::new("Redis to client, 64 B, 16 pipelined", "deliver --pipeline 16").target(1.3).tls(),
        Work::new("heartbeat, 64 B, one at a time", "ping --pipeline 1").target(1.15).uws_target(0.9).tls_target(1.5),
        Work::new("heartbeat, 64 B, 16 pipelined", "ping --pipeline 16").target(1.3).uws_target(0.7).tls_target(1.5),
    ]
}

/// Open loops, for the latency that players see.
pub(crate) fn loops() -> Vec<Work> {
    [1_000, 20_000].map(|rate| Work::new(format!("{rate}/s"), format!("loop --rate {rate}")).target(1.2)).into()
}

/// Open loops at one rate, spread over ever more sessions.
pub(crate) fn crowds(most: u64) -> Vec<Work> {
    let crowd = |sessions| Work::new(format!("{sessions} sessions"), format!("loop --rate 20000 --clients {sessions}"));
    [10, 100, 1_000, 10_000].map(|sessions| crowd(most.min(sessions))).into()
}

/// The seconds between two pings of a session by the gateway, by default. A measurement of this length has one ping for
/// each session.
const PING_INTERVAL_S: u32 = 25;

/// The seconds from the opening of all sessions to the end of the measurement of sessions that do nothing.
const IDLE_S: u32 = 30;

/// Sessions that are opened, for the cost of opening them.
pub(crate) fn opened(most: u64) -> Work {
    let work = Work::new(format!("{most} sessions opened"), format!("idle --clients {most}")).tls();
    Work { seconds: Some(1), lineup: ALL, ..work }
}

/// Sessions that do nothing, for the cost of keeping them. Further rounds would take half a minute for each server.
pub(crate) fn held(most: u64) -> Work {
    let work = Work::new(format!("{most} sessions held"), format!("idle --clients {most}")).tls();
    let warmup = IDLE_S - PING_INTERVAL_S;
    Work { seconds: Some(PING_INTERVAL_S), warmup, once: true, lineup: ALL, ..work }
}
