//! Measures every server under every load in turn.

use std::collections::BTreeMap;
use std::io::{Write, stderr};

use anyhow::anyhow;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use serde_json::Value;

use crate::arguments::Arguments;
use crate::contender::{Contender, Folders};
use crate::fleet;
use crate::limits::{self, Toggled};
use crate::measured::{Measured, Run, faults};
use crate::report::Report;
use crate::server::Server;
use crate::swaps::Swapper;
use crate::work::{self, Work};
use crate::{arena, bursts, child, fanout, machine, plugin_call, swaps};

/// The files that a process may have open besides its sessions.
const OTHER_FILES: u64 = 500;

/// The names of the tables with these rows, on the command line.
const TLS: &str = "TLS";
const LIMITS: &str = "limits";
const GATEWAYS: &str = "gateways";

/// The largest number of sessions.
const SESSIONS: u64 = 10_000;

/// The servers, and the programs and folders that the measurements need.
pub(crate) struct Bench<'a> {
    arguments: &'a Arguments,
    folders: Folders,
    redis: Server,
    /// The budget of instructions for each step of a packet's way.
    budget: BTreeMap<String, u64>,
    /// The version of Node, or the reason why Node is left out.
    node: Result<String, String>,
    /// The version of uWebSockets, or the reason why it is left out.
    uws: Result<String, String>,
    /// The largest number of sessions that the limit of open files allows.
    sessions: u64,
    /// The limit of open files.
    files: u64,
}

impl<'a> Bench<'a> {
    /// Starts Redis, and sets up the folders, Node and uWebSockets.
    pub(crate) fn new(arguments: &'a Arguments) -> anyhow::Result<Self> {
        let files = raise_open_files();
        let folders = Folders::new()?;
        let node = folders.install_node().map_err(|error| format!("{error:#}"));
        let uws = folders.install_uws().map_err(|error| format!("{error:#}"));
        for (name, installed) in [("NODE", &node), ("UWEBSOCKETS", &uws)] {
            if let Err(why) = installed {
                writeln!(stderr(), "{name} IS LEFT OUT: {why}")?;
            }
        }
        let redis = Server::redis(&folders)?;
        let budget = folders.budget()?;
        let files = files.unwrap_or(u64::MAX);
        let sessions = files.saturating_sub(OTHER_FILES).clamp(1, SESSIONS);
        Ok(Self { arguments, folders, redis, budget, node, uws, sessions, files })
    }

    /// Measures everything.
    pub(crate) fn run(&self) -> anyhow::Result<Report> {
        Ok(Report {
            machine: machine::describe(&self.node, &self.uws),
            rounds: self.arguments.rounds,
            seconds: self.arguments.seconds,
            plugin_call: self.measure_here("one plugin call", plugin_call::measure)?,
            bursts: self.measure_here("a burst of bus messages", bursts::measure)?,
            budget: self.budget.clone(),
            messages: self.measure_all(work::messages())?,
            loops: self.measure_all(work::loops())?,
            opened: self.measure_all([work::opened(self.sessions)])?.pop(),
            held: self.measure_all([work::held(self.sessions)])?.pop(),
            crowds: self.measure_all(work::crowds(self.sessions))?,
            fanout: self.measure_all(fanout::works())?,
            arena: self.measure_all(arena::works(self.sessions))?,
            swaps: self.measure_all(swaps::works())?,
            limits: self.measure_limits()?,
            fleet: self.measure_fleet()?,
        })
    }

    /// Measures something in this process, without a gateway. Returns `None` if it is not selected.
    fn measure_here<T>(
        &self,
        name: &str,
        measure: impl FnOnce(&Folders) -> anyhow::Result<T>,
    ) -> anyhow::Result<Option<Result<T, String>>> {
        if !self.arguments.selects(name, "") {
            return Ok(None);
        }
        let figures = measure(&self.folders).map_err(|error| format!("{name}: {error:#}"));
        writeln!(stderr(), "{}", figures.as_ref().err().unwrap_or(&format!("{name}: measured")))?;
        Ok(Some(figures))
    }

    fn measure_all(&self, works: impl IntoIterator<Item = Work>) -> anyhow::Result<Vec<Measured>> {
        let wanted = works.into_iter().map(|work| (self.contenders(&work), work));
        let wanted = wanted.filter(|(contenders, _)| !contenders.is_empty());
        wanted.map(|(contenders, work)| self.measure(work, &contenders)).collect()
    }

    /// The contenders that are measured under a load.
    fn contenders(&self, work: &Work) -> Vec<Contender> {
        let tls = work.has_tls.then_some(Contender::Tls);
        if self.arguments.selects(&work.name, work.table) {
            let (gateway, others) = work.lineup.split_at(1);
            let others = others.iter().copied().filter(|contender| self.is_installed(*contender));
            gateway.iter().copied().chain(tls).chain(others).collect()
        } else if self.arguments.only == TLS {
            tls.map_or_else(Vec::new, |tls| vec![Contender::Gateway, tls])
        } else {
            Vec::new()
        }
    }

    fn is_installed(&self, contender: Contender) -> bool {
        match contender {
            Contender::Node => self.node.is_ok(),
            Contender::Uws => self.uws.is_ok(),
            _ => true,
        }
    }

    fn measure_limits(&self) -> anyhow::Result<Vec<Toggled>> {
        let wanted = limits::works().into_iter().filter(|work| self.arguments.selects(work.name, LIMITS));
        wanted.map(|work| limits::measure(work, &self.folders, self.redis.port, self.arguments.rounds)).collect()
    }

    fn measure_fleet(&self) -> anyhow::Result<Vec<fleet::Row>> {
        // The players of both gateways are in this process.
        let users = u32::try_from(self.sessions.min(self.files.saturating_sub(OTHER_FILES) / 2))?;
        let rows = fleet::rows(u32::try_from(self.sessions)?, users);
        let mut rows: Vec<_> = rows.into_iter().filter(|row| self.arguments.selects(row.what(), GATEWAYS)).collect();
        let rounds = self.arguments.rounds;
        for round in 1..=rounds {
            for row in &mut rows {
                write!(stderr(), "{} ({round} of {rounds}): ", row.what())?;
                row.measure(&self.folders, self.redis.port)?;
            }
        }
        Ok(rows)
    }

    fn measure(&self, work: Work, contenders: &[Contender]) -> anyhow::Result<Measured> {
        let mut runs = Vec::new();
        let rounds = if work.once { 1 } else { self.arguments.rounds };
        for round in 1..=rounds {
            for contender in contenders {
                write!(stderr(), "{}, {} ({round} of {rounds}): ", work.name, contender.name())?;
                let run = self.run_once(&work, *contender).map_err(|error| format!("{error:#}"));
                writeln!(stderr(), "{}", summary(&run))?;
                runs.push((*contender, run));
            }
        }
        Ok(Measured { work, runs })
    }

    fn run_once(&self, work: &Work, contender: Contender) -> anyhow::Result<Value> {
        let server = Server::gateway(contender, &self.folders, self.redis.port, None)?;
        if work.table == arena::ARENA {
            return arena::run(work, contender, &self.folders, &server);
        }
        let swapper = if contender == Contender::Swapped { Some(Swapper::start(&self.folders)?) } else { None };
        let mut figures = self.load(work, contender, &server)?;
        if let Some(swapper) = swapper {
            figures["swaps"] = swapper.end(&server)?.into();
        }
        Ok(figures)
    }

    fn load(&self, work: &Work, contender: Contender, server: &Server) -> anyhow::Result<Value> {
        let seconds = work.seconds.unwrap_or(self.arguments.seconds).to_string();
        let mut command = child::command(self.folders.binary("gateway-client"));
        command.arg("load").args(work.load.split(' '));
        command.args(contender.target(&self.folders, server.port)).args(["--pid", &server.pid().to_string()]);
        command.args(["--duration-s", &seconds, "--warmup-s", &work.warmup.to_string(), "--format", "json"]);
        if work.table == fanout::FANOUT {
            command.args(fanout::arguments(contender, self.redis.port));
        } else if work.has_bus() {
            command.args(["--redis", &format!("127.0.0.1:{}", self.redis.port)]);
        }
        let output = command.output()?;
        // If messages were lost, the client fails, but it prints the figures all the same.
        serde_json::from_slice(&output.stdout)
            .map_err(|_| anyhow!("{}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

fn summary(run: &Run) -> String {
    match run {
        Err(error) => error.clone(),
        Ok(figures) => {
            let keys = [
                "server_cpu_us_per_message",
                "own_cpu_us_per_message",
                "server_cpu_us_per_open",
                "server_bytes_per_session",
                "latency_p99_ms",
                "interval_p99_ms",
            ];
            let found = keys.iter().filter_map(|key| Some(format!("{key} {}", figures.get(key)?)));
            found.chain(faults(figures)).collect::<Vec<_>>().join(", ")
        }
    }
}

/// Raises the limit of open files, for this process and for those that it starts, as far as the system allows. Returns
/// the limit, or `None` if there is none.
fn raise_open_files() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}
