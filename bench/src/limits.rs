//! The cost of the section `limits`, with limits that no client reaches.
//!
//! The cost is less than two servers of the same kind differ, and less than the machine changes from one minute to the
//! next. So one gateway serves one load all the time, and its limits are switched on and off by saving its
//! configuration. A turn is a window of time with limits and one without, and the order changes with every turn, so that
//! a machine that gets slower favors neither. Only windows of one turn are compared with each other.

use std::fs::{self, File};
use std::io::{Read, Write, stderr};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::Value;

use crate::child;
use crate::contender::{Contender, Folders};
use crate::measured::{faults, mark, median_interval, quantile};
use crate::server::{Server, ask};
use crate::table::cell;

/// Every key of the section, with a value that no load reaches.
const LIMITS: &str = "limits: { sessions: 1000000, sessions_per_ip: 1000000, handshakes_per_s_per_ip: 1000000, \
                      handshakes: 1000000, sessions_per_user: 1000000, on_user_limit: refuse, \
                      packets_per_s: 100000000, bytes_per_s: 4294967295 }\n";

/// The turns for each round of the other measurements.
const TURNS: u32 = 12;

/// The time of a window. With longer windows and fewer turns, the noise of the machine is larger.
const WINDOW: Duration = Duration::from_millis(250);

/// The time that the gateway gets to find out that its configuration has changed. It looks at most twice a second.
const SWITCH: Duration = Duration::from_millis(400);

/// The time that the load takes to begin, and its margin at the end.
const MARGIN: Duration = Duration::from_secs(4);

/// The time that the gateway may take to read its configuration again, or the load to begin, before this fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// The time between two looks at a condition.
const POLL: Duration = Duration::from_millis(10);

/// The log line of a gateway that has read its configuration again.
const SWITCHED: &str = "configuration read again";

/// A load under which the gateway is measured with limits and without.
pub(crate) struct Limited {
    /// The first cell of the row.
    pub(crate) name: &'static str,
    /// The arguments of `gateway-client load`.
    load: &'static str,
    /// The metric that counts the messages.
    messages: &'static str,
    /// The steps of `budget.txt` that each message takes without limits.
    pub(crate) steps: &'static [&'static str],
    /// How often each message takes the step `limits`.
    pub(crate) checks: Checks,
}

/// How often a message takes the step `limits` of `budget.txt`.
#[derive(Clone, Copy)]
pub(crate) enum Checks {
    /// Never, since no client sent it.
    Never,
    /// A part of it, since messages that arrive together share the rest.
    Shared,
    /// Once.
    Once,
}

/// The loads of the table.
pub(crate) fn works() -> [Limited; 4] {
    let (received, sent) = ("gateway_messages_received_total", "gateway_messages_sent_total");
    let work = |name, load, messages, steps, checks| Limited { name, load, messages, steps, checks };
    [
        work(
            "client to Redis, 64 B, 16 pipelined",
            "request --pipeline 16",
            received,
            &["frame_in", "request"],
            Checks::Shared,
        ),
        work(
            "Redis to client, 64 B, 16 pipelined",
            "deliver --pipeline 16",
            sent,
            &["delivery", "frame_out"],
            Checks::Never,
        ),
        work(
            "heartbeat, 64 B, one at a time",
            "ping --pipeline 1",
            received,
            &["frame_in", "heartbeat", "frame_out"],
            Checks::Once,
        ),
        work(
            "heartbeat, 64 B, 16 pipelined",
            "ping --pipeline 16",
            received,
            &["frame_in", "pipelined", "frame_out"],
            Checks::Shared,
        ),
    ]
}

/// The server's microseconds for each message, with limits and without.
pub(crate) struct Toggled {
    pub(crate) work: Limited,
    /// The figures of each turn without limits and with limits.
    turns: Vec<[f64; 2]>,
    fault: Option<String>,
}

impl Toggled {
    /// The first cell of the row, with a mark if anything went wrong.
    pub(crate) fn name(&self) -> String {
        format!("{}{}", self.work.name, mark(self.fault.is_some()))
    }

    /// The median without limits and with limits.
    pub(crate) fn medians(&self) -> [Option<f64>; 2] {
        [0, 1].map(|side| quantile(&sorted(self.turns.iter().map(|turn| turn[side])), 0.5))
    }

    /// The median of the turns' quotients, with limits by without.
    pub(crate) fn ratio(&self) -> Option<f64> {
        quantile(&self.ratios(), 0.5)
    }

    /// The margin of error of the ratio: its distance from the further end of its 95 % confidence interval. Returns
    /// `None` if there are too few turns.
    pub(crate) fn margin(&self) -> Option<f64> {
        let (ratio, [low, high]) = (self.ratio()?, median_interval(&self.ratios())?);
        Some((ratio - low).max(high - ratio))
    }

    fn ratios(&self) -> Vec<f64> {
        sorted(self.turns.iter().map(|[off, on]| on / off))
    }

    /// What went wrong.
    pub(crate) fn fault(&self) -> Option<String> {
        Some(format!("{}, limits: {}", self.work.name, self.fault.as_ref()?))
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Measures the gateway under this load, with limits and without.
pub(crate) fn measure(work: Limited, folders: &Folders, redis: u16, rounds: u32) -> anyhow::Result<Toggled> {
    let count = rounds * TURNS;
    write!(stderr(), "{}, gateway with limits and without ({count} turns): ", work.name)?;
    let mut turns = Vec::new();
    let fault = Stage::new(&work, folders, redis, count).and_then(|mut stage| {
        for turn in 0..count {
            turns.push(stage.turn(turn % 2 == 1)?);
        }
        stage.end()
    });
    let toggled = Toggled { work, turns, fault: fault.err().map(|error| format!("{error:#}")) };
    let [ratio, margin] = [toggled.ratio(), toggled.margin()].map(|figure| cell(figure, 3));
    writeln!(stderr(), "{ratio} ± {margin} times as much with limits")?;
    toggled.fault.iter().try_for_each(|fault| writeln!(stderr(), "{fault}"))?;
    Ok(toggled)
}

/// A gateway under load.
struct Stage<'a> {
    work: &'a Limited,
    folders: &'a Folders,
    server: Server,
    redis: u16,
    load: Child,
    /// Whether the limits are on.
    on: bool,
    switches: usize,
}

impl<'a> Stage<'a> {
    /// Starts the gateway, turns its limits on, and starts the load.
    fn new(work: &'a Limited, folders: &'a Folders, redis: u16, turns: u32) -> anyhow::Result<Self> {
        let log = File::create(folders.log_file())?;
        let server = Server::gateway(Contender::Gateway, folders, redis, Some(log))?;
        let duration = turns * (2 * WINDOW + SWITCH) + MARGIN;
        let mut command = child::command(folders.binary("gateway-client"));
        command.arg("load").args(work.load.split(' ')).args(Contender::Gateway.target(folders, server.port));
        command.args(["--duration-s", &duration.as_secs().to_string(), "--warmup-s", "0", "--format", "json"]);
        if !work.load.starts_with("ping") {
            command.args(["--redis", &format!("127.0.0.1:{redis}")]);
        }
        let load = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // The sessions begin with limits.
        let mut stage = Self { work, folders, redis, load: load.spawn()?, server, on: false, switches: 0 };
        stage.switch(true)?;
        stage.wait("no message", |stage| Ok(stage.messages()? > 0.0))?;
        Ok(stage)
    }

    /// Measures one window with limits and one without. Returns the microseconds for each message, without limits first.
    fn turn(&mut self, on_first: bool) -> anyhow::Result<[f64; 2]> {
        let mut figures = [0.0; 2];
        for on in [on_first, !on_first] {
            self.switch(on)?;
            let (cpu, messages) = (self.server.cpu()?, self.messages()?);
            sleep(WINDOW);
            let (cpu, messages) = (self.server.cpu()? - cpu, self.messages()? - messages);
            ensure!(messages > 0.0 && self.load.try_wait()?.is_none(), "the load ended before its time");
            figures[usize::from(on)] = cpu.as_secs_f64() * 1e6 / messages;
        }
        Ok(figures)
    }

    /// Turns the limits on or off, and waits until they are.
    fn switch(&mut self, on: bool) -> anyhow::Result<()> {
        if self.on == on {
            return Ok(());
        }
        (self.on, self.switches) = (on, self.switches + 1);
        let config = self.folders.config(Contender::Gateway, self.server.port, self.server.admin, self.redis);
        let file = self.folders.config_file();
        let new = file.with_extension("new");
        fs::write(&new, config + if on { LIMITS } else { "" })?;
        fs::rename(new, file)?;
        self.wait("the gateway does not read its configuration again", |stage| {
            let log = fs::read_to_string(stage.folders.log_file())?;
            Ok(log.matches(SWITCHED).count() == stage.switches)
        })
    }

    fn wait(&self, why: &str, condition: impl Fn(&Self) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self)? {
            ensure!(Instant::now() < deadline, "{why} within {} s", PATIENCE.as_secs());
            sleep(POLL);
        }
        Ok(())
    }

    /// The messages so far.
    fn messages(&self) -> anyhow::Result<f64> {
        Ok(sum(&ask(self.server.admin, "/metrics")?, self.work.messages))
    }

    /// Waits until the load has ended. Fails if anything was lost or refused.
    fn end(&mut self) -> anyhow::Result<()> {
        let (mut out, mut error) = (String::new(), String::new());
        self.load.stdout.take().context("no output")?.read_to_string(&mut out)?;
        self.load.stderr.take().context("no output")?.read_to_string(&mut error)?;
        let figures: Value = serde_json::from_str(&out).map_err(|_| anyhow!(error.trim().to_owned()))?;
        if let Some(faults) = faults(&figures) {
            bail!(faults);
        }
        Ok(())
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        // The load may have ended by itself.
        let _ = self.load.kill();
        let _ = self.load.wait();
    }
}

/// The sum of a metric over all its labels.
fn sum(metrics: &str, name: &str) -> f64 {
    let values =
        metrics.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let metrics =
            "# TYPE a_total counter\na_total{route=\"1\"} 2\na_total{route=\"3\"} 40\na_total_b 5\nb_total 6\n";
        assert_eq!((sum(metrics, "a_total"), sum(metrics, "b_total"), sum(metrics, "c")), (42.0, 6.0, 0.0));
    }

    #[test]
    fn the_ratio_is_that_of_the_windows_of_one_turn() {
        let [work, ..] = works();
        let toggled = Toggled { work, turns: vec![[1.0, 1.5], [10.0, 10.0], [4.0, 5.0]], fault: Some("why".into()) };
        assert_eq!(toggled.medians(), [Some(4.0), Some(5.0)]);
        assert_eq!((toggled.ratio(), toggled.margin()), (Some(1.25), None));
        assert_eq!(toggled.name(), "client to Redis, 64 B, 16 pipelined †");
        assert_eq!(toggled.fault().as_deref(), Some("client to Redis, 64 B, 16 pipelined, limits: why"));
    }

    #[test]
    fn the_margin_reaches_to_the_further_end_of_the_interval() {
        let [work, ..] = works();
        // Of six quotients, the interval is from the first to the last.
        let turns = [1.0, 1.25, 1.5, 1.5, 1.75, 3.0].map(|on| [1.0, on]).into();
        let toggled = Toggled { work, turns, fault: None };
        assert_eq!((toggled.ratio(), toggled.margin()), (Some(1.5), Some(1.5)));
    }
}
