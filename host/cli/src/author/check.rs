//! `gateway plugin check`: loads a plugin file, measures its calls, and writes a report.

use super::load::{load, settings};
use anyhow::{Context, anyhow};
use gateway::{
    config::Config,
    plugin::{
        ATTRIBUTES, Decision, Described, Fault, Keeper, LOG, Packet, STATE, SessionId, Standalone, TRACING,
        trial::Trial,
    },
};
use std::{
    fmt::Write,
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// The number of calls that are measured. The report shows their median.
const CALLS: usize = 1000;

/// The packet that the measured calls receive.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// The packet's payload.
    pub(crate) payload: Vec<u8>,
    /// The user that the packet's session is bound to.
    pub(crate) user: Option<i64>,
}

/// Loads a plugin file with its settings in the configuration, and returns a report for the plugin's author.
///
/// # Errors
/// Returns the reason why a gateway would reject the file, and how to fix the file.
pub(crate) fn check(path: &Path, config: Option<&Config>, sample: &Sample) -> anyhow::Result<String> {
    let size = fs::metadata(path).with_context(|| format!("{} cannot be read", path.display()))?.len();
    let began = Instant::now();
    let described = load(path, config)?;
    let compiled = began.elapsed();
    let settings = settings(&described, config);
    let began = Instant::now();
    let kept = Standalone.kept(&described.name);
    let mut trial =
        Trial::new(&described, settings.limits, kept).map_err(|fault| anyhow!("it does not start: {fault}"))?;
    let started = began.elapsed();
    let topics = trial.configure(&settings.json).map_err(|fault| anyhow!("its `configure` failed: {fault}"))?;
    let topics = topics.map_err(|why| anyhow!("it refuses its settings {}: {why}", settings.json))?;
    described.check_routes(&settings.routes)?;
    described.check_topics(&topics)?;
    let (name, version) = (&described.name, &described.version);
    let routes: Vec<_> = settings.routes.iter().map(|route| format!("0x{route:02x}")).collect();

    let mut report = String::new();
    let mut line = |key: &str, value: &str| writeln!(report, "{key:<10} {value}");
    line("plugin", &format!("{name} {version}"))?;
    line("file", &format!("{}, {size} bytes", path.display()))?;
    line("interface", &format!("gateway:policy {}", described.interface_version()))?;
    line("calls", &listed(&calls(&described)))?;
    line("routes", &listed(&routes))?;
    line("topics", &listed(&topics))?;
    line("settings", &settings.json)?;
    for import in described.imports() {
        line("imports", &format!("{import} ({})", granted(import)))?;
    }
    line("compiled", &format!("in {compiled:.1?}, `describe` included, and from the cache if it was loaded before"))?;
    line("started", &format!("in {started:.1?}"))?;
    if let Some(route) = settings.routes.first() {
        line("a call", &call(&mut trial, *route, sample)?)?;
    }
    Ok(report)
}

/// Returns the names of the calls that the plugin takes.
fn calls(described: &Described) -> Vec<String> {
    let takes = described.takes();
    let all = [
        (takes.packets, "on-packet"),
        (takes.batches, "on-packets"),
        (takes.messages, "on-message"),
        (takes.sessions, "on-connect"),
        (takes.sessions, "on-disconnect"),
        (takes.presence, "on-away"),
        (takes.presence, "on-back"),
        (takes.timers, "on-wake"),
    ];
    all.into_iter().filter(|(taken, _)| *taken).map(|(_, name)| name.to_owned()).collect()
}

fn listed(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn granted(import: &str) -> &'static str {
    match import.split_once('@').map_or(import, |(name, _)| name) {
        LOG => "granted: lines in the gateway's log",
        STATE => "granted: the plugin's own state",
        ATTRIBUTES => "granted: the attributes that the plugin gave to sessions",
        TRACING => "granted: the trace that a call belongs to",
        "wasi:cli/stdout" | "wasi:cli/stderr" => "granted: lines in the gateway's log",
        "wasi:clocks/wall-clock" | "wasi:clocks/monotonic-clock" => "granted: the clock; waiting returns at once",
        "wasi:random/random" | "wasi:random/insecure" | "wasi:random/insecure-seed" => "granted: random numbers",
        name if name.starts_with("gateway:policy/") => "types only",
        _ => "a stub: nothing is granted",
    }
}

/// Calls `on-packet` with the sample, up to [`CALLS`] times, and returns the median duration and the last answer as a
/// text.
///
/// A call that fails ends the measurement, since a failed instance cannot be called again.
fn call(trial: &mut Trial, route: u8, sample: &Sample) -> anyhow::Result<String> {
    let mut times = Vec::with_capacity(CALLS);
    let mut answer = None;
    for _ in 0..CALLS {
        let session = SessionId { high: 1, low: 2 };
        // With tag 1, the shipped plugin `chat` takes the session for one that it has seen before.
        let packet = Packet { seq: 1, route, flags: 0, session, user: sample.user, tag: 1, now: 0 };
        let began = Instant::now();
        let outcome = trial.on_packet(packet, &sample.payload);
        times.push(began.elapsed());
        let failed = outcome.is_err();
        answer = Some(outcome);
        if failed {
            break;
        }
    }
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or(Duration::ZERO);
    let answer = answer.map_or_else(String::new, |outcome| shown(&outcome));
    let (count, bytes) = (times.len(), sample.payload.len());
    Ok(format!("{median:.1?}, the median of {count} with {bytes} bytes of payload; it answers with {answer}"))
}

fn shown(outcome: &Result<Decision, Fault>) -> String {
    match outcome {
        Ok(Ok(actions)) => format!("{} actions", actions.len()),
        Ok(Err(rejection)) => format!("status {}: {}", rejection.status, rejection.message),
        Err(fault) => format!("a fault: {fault}"),
    }
}
