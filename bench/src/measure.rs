//! Puts every work on every server in turn, and keeps the figures.

use std::io::{Write, stderr};
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use crate::contender::{Contender, Folders};
use crate::report::Report;
use crate::server::Server;
use crate::work::{self, Work};
use crate::{Arguments, machine, plugin_call};

/// What a process has open besides its sessions, generously.
const OTHER_FILES: u64 = 500;

/// The largest number of sessions.
const SESSIONS: u64 = 10_000;

/// Figures of `gateway-client load` that have to be 0.
const FAULTS: [&str; 5] = ["lost", "doubled", "reordered", "miscounted", "refused"];

/// Everything that is needed to measure.
pub(crate) struct Bench<'a> {
    arguments: &'a Arguments,
    folders: Folders,
    redis: Server,
    contenders: Vec<Contender>,
    /// The version of Node, or why it is left out.
    node: Result<String, String>,
    sessions: u64,
}

/// The figures of one work.
pub(crate) struct Measured {
    pub(crate) work: Work,
    runs: Vec<(Contender, Run)>,
}

/// One measurement: the figures, or what went wrong.
type Run = Result<Value, String>;

impl<'a> Bench<'a> {
    /// Starts Redis and sets up what the others need.
    pub(crate) fn new(arguments: &'a Arguments) -> anyhow::Result<Self> {
        let files = raise_open_files();
        let folders = Folders::new()?;
        let node = folders.install_node().map_err(|error| format!("{error:#}"));
        let mut contenders = vec![Contender::Gateway, Contender::Baseline];
        match &node {
            Ok(_) => contenders.push(Contender::Node),
            Err(why) => writeln!(stderr(), "NODE IS LEFT OUT: {why}")?,
        }
        let redis = Server::redis(&folders)?;
        let sessions = files.map_or(SESSIONS, |files| files.saturating_sub(OTHER_FILES).clamp(1, SESSIONS));
        Ok(Self { arguments, folders, redis, contenders, node, sessions })
    }

    /// Measures everything, and tells it.
    pub(crate) fn run(&self) -> anyhow::Result<String> {
        let report = Report {
            machine: machine::describe(&self.node),
            rounds: self.arguments.rounds,
            seconds: self.arguments.seconds,
            contenders: self.contenders.clone(),
            plugin_call: plugin_call::measure(&self.folders)?,
            messages: self.measure_all(work::messages())?,
            loops: self.measure_all(work::loops())?,
            idle: self.measure_all(work::idle(self.sessions))?,
            crowds: self.measure_all(work::crowds(self.sessions))?,
        };
        Ok(report.to_string())
    }

    fn measure_all(&self, works: impl IntoIterator<Item = Work>) -> anyhow::Result<Vec<Measured>> {
        let wanted = works.into_iter().filter(|work| work.name.contains(&self.arguments.only));
        wanted.map(|work| self.measure(work)).collect()
    }

    fn measure(&self, work: Work) -> anyhow::Result<Measured> {
        let mut runs = Vec::new();
        let rounds = if work.once { 1 } else { self.arguments.rounds };
        for round in 1..=rounds {
            for contender in &self.contenders {
                write!(stderr(), "{}, {} ({round} of {rounds}): ", work.name, contender.name())?;
                let run = self.load(&work, *contender);
                writeln!(stderr(), "{}", summary(&run))?;
                runs.push((*contender, run));
            }
        }
        Ok(Measured { work, runs })
    }

    fn load(&self, work: &Work, contender: Contender) -> Run {
        let server =
            Server::gateway(contender, &self.folders, self.redis.port).map_err(|error| format!("{error:#}"))?;
        let seconds = work.seconds.unwrap_or(self.arguments.seconds).to_string();
        let mut command = Command::new(self.folders.binary("gateway-client"));
        command.arg("load").args(work.load.split(' '));
        command.args(["--url", &format!("ws://127.0.0.1:{}/ws", server.port), "--pid", &server.pid().to_string()]);
        command.args(["--duration-s", &seconds, "--warmup-s", "1", "--format", "json"]);
        if work.has_bus() {
            command.args(["--redis", &format!("127.0.0.1:{}", self.redis.port)]);
        }
        let output = command.output().map_err(|error| error.to_string())?;
        // Where messages were lost there are figures all the same, and they say so.
        serde_json::from_slice(&output.stdout).map_err(|_| String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

impl Measured {
    /// The median of a figure over the rounds. None where it was never measured.
    pub(crate) fn median(&self, contender: Contender, figure: &str) -> Option<f64> {
        let of = self.runs.iter().filter(|(other, _)| *other == contender);
        let mut values: Vec<f64> = of.filter_map(|(_, run)| run.as_ref().ok()?.get(figure)?.as_f64()).collect();
        values.sort_by(f64::total_cmp);
        match values.len() {
            0 => None,
            count => Some((values[(count - 1) / 2] + values[count / 2]) / 2.0),
        }
    }

    /// The gateway's median as a multiple of the baseline's.
    pub(crate) fn ratio(&self, figure: &str) -> Option<f64> {
        Some(self.median(Contender::Gateway, figure)? / self.median(Contender::Baseline, figure)?)
    }

    /// The first cell of its row, with a mark if anything went wrong.
    pub(crate) fn name(&self) -> String {
        let mark = if self.faults().next().is_some() { " †" } else { "" };
        format!("{}{mark}", self.work.name)
    }

    /// What went wrong, a line for each time.
    pub(crate) fn faults(&self) -> impl Iterator<Item = String> {
        self.runs.iter().filter_map(|(contender, run)| {
            let what = match run {
                Err(error) => error.clone(),
                Ok(figures) => faults(figures)?,
            };
            Some(format!("{}, {}: {what}", self.work.name, contender.name()))
        })
    }
}

fn faults(figures: &Value) -> Option<String> {
    let count = |fault: &str| figures.get(fault).and_then(Value::as_u64).filter(|count| *count > 0);
    let faults = FAULTS.iter().filter_map(|fault| Some(format!("{} {fault}", count(fault)?)));
    let faults: Vec<_> = faults.collect();
    (!faults.is_empty()).then(|| faults.join(", "))
}

fn summary(run: &Run) -> String {
    match run {
        Err(error) => error.clone(),
        Ok(figures) => {
            let keys = ["server_cpu_us_per_message", "server_cpu_us_per_open", "server_bytes_per_session"];
            let found = keys.iter().filter_map(|key| Some(format!("{key} {}", figures.get(key)?)));
            found.chain(faults(figures)).collect::<Vec<_>>().join(", ")
        }
    }
}

/// Allows this process, and those that it starts, as many open files as it may allow. None if there is no limit.
fn raise_open_files() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn measured(runs: Vec<(Contender, Run)>) -> Measured {
        let [work, ..] = work::idle(10);
        Measured { work, runs }
    }

    #[test]
    fn medians_are_those_of_one_contender() {
        let gateway = [3.0, 1.0, 2.0].map(|cpu| (Contender::Gateway, Ok(json!({ "cpu": cpu, "rss": null }))));
        let baseline = [1.0, 2.0].map(|cpu| (Contender::Baseline, Ok(json!({ "cpu": cpu }))));
        let measured = measured(gateway.into_iter().chain(baseline).collect());
        assert_eq!(measured.median(Contender::Gateway, "cpu"), Some(2.0));
        assert_eq!(measured.median(Contender::Baseline, "cpu"), Some(1.5));
        assert_eq!(measured.ratio("cpu"), Some(2.0 / 1.5));
        assert_eq!(measured.median(Contender::Node, "cpu"), None);
        assert_eq!(measured.median(Contender::Gateway, "rss"), None);
        assert_eq!(measured.name(), "10 sessions opened");
    }

    #[test]
    fn what_went_wrong_is_told() {
        let runs =
            [Ok(json!({ "lost": 0, "doubled": 0 })), Ok(json!({ "lost": 2, "refused": 1 })), Err("no".to_owned())];
        let measured = measured(runs.map(|run| (Contender::Node, run)).into());
        let faults: Vec<_> = measured.faults().collect();
        assert_eq!(measured.name(), "10 sessions opened †");
        assert_eq!(faults, ["10 sessions opened, node: 2 lost, 1 refused", "10 sessions opened, node: no"]);
    }
}
