//! The loop while a plugin is replaced by another build of it all the time.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{anyhow, ensure};

use crate::contender::{Contender, Folders};
use crate::measured::Measured;
use crate::server::{Server, ask};
use crate::table::{Table, cell, judged_quotient};
use crate::work::Work;

/// The name of the table, on the command line.
pub(crate) const SWAPS: &str = "swaps";

/// The servers in the order of their turns.
const LINEUP: &[Contender] = &[Contender::Gateway, Contender::Swapped];

/// The time from one swap to the next.
const PERIOD: Duration = Duration::from_secs(1);

/// The measured seconds: a few swaps have to be among them.
const SECONDS: u32 = 10;

/// The largest allowed 99th percentile of the latency with swaps, as a multiple of that without.
const P99: f64 = 1.5;

/// The plugin that is replaced.
const PLUGIN: &str = "chat.wasm";

/// The name of the section in which the builds differ.
const SECTION: &[u8] = b"swap";

/// The load.
pub(crate) fn works() -> Vec<Work> {
    let work = Work::new("20000/s, a swap each second", "loop --rate 20000").among(SWAPS, LINEUP);
    vec![Work { seconds: Some(SECONDS), ..work }]
}

/// A thread that replaces the plugin `chat` of [`Contender::Swapped`] by ever other builds of it, until it is told to end.
pub(crate) struct Swapper {
    stop: Sender<()>,
    thread: JoinHandle<anyhow::Result<u32>>,
}

impl Swapper {
    /// Starts the thread.
    pub(crate) fn start(folders: &Folders) -> anyhow::Result<Self> {
        let folder = folders.swapped();
        let plugin = fs::read(folders.plugins().join(PLUGIN))?;
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || {
            let mut swaps = 0;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(PERIOD) {
                replace(&folder, &build(&plugin, SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos()))?;
                swaps += 1;
            }
            Ok(swaps)
        });
        Ok(Self { stop, thread })
    }

    /// Ends the thread. Returns the number of swaps that the gateway has carried out, which may be fewer: if it is late with
    /// one, it takes the newer build at once, and the last one may be under way.
    pub(crate) fn end(self, server: &Server) -> anyhow::Result<u32> {
        // If the thread has failed, it has no receiver, and the reason is returned below.
        let _ = self.stop.send(());
        let swaps = self.thread.join().map_err(|_| anyhow!("the thread that swaps a plugin has panicked"))??;
        let swapped = swapped(&ask(server.admin, "/metrics")?);
        ensure!(swapped * 2 > swaps, "only {swapped} of {swaps} swaps were carried out");
        Ok(swapped)
    }
}

/// The plugin with a custom section that has no meaning but its number. The gateway keeps the compiled code of the builds
/// that it has seen, so each build has a number of its own.
fn build(plugin: &[u8], number: u128) -> Vec<u8> {
    let number = number.to_be_bytes();
    // The section has an id, its length, the length of its name, and its name.
    let length = 1 + SECTION.len() + number.len();
    [plugin, &[0, length as u8, SECTION.len() as u8], SECTION, &number].concat()
}

/// Writes a hidden file and then renames it, so that the gateway never reads a partial file.
fn replace(folder: &Path, build: &[u8]) -> anyhow::Result<()> {
    let new = folder.join(".new");
    fs::write(&new, build)?;
    Ok(fs::rename(new, folder.join(PLUGIN))?)
}

/// The number of swaps that a gateway has carried out, by its metrics.
fn swapped(metrics: &str) -> u32 {
    let mut reloads = metrics.lines().filter(|line| line.starts_with("gateway_plugin_reloads_total{"));
    let swaps = reloads.find(|line| line.contains("plugin=\"chat\"") && line.contains("outcome=\"swapped\""));
    swaps.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// The latency with swaps and without.
pub(crate) fn table(works: &[Measured]) -> Table {
    let head = [
        "the whole loop, ms",
        "",
        "swaps",
        "p50",
        "p99",
        "p99.9",
        "server CPU, µs",
        "p99, with ÷ without",
        "target",
        "",
    ];
    let mut table = Table::new(head);
    for measured in works {
        for contender in LINEUP.iter().filter(|contender| measured.has(**contender)) {
            let figures = [
                ("swaps", 0),
                ("latency_p50_ms", 3),
                ("latency_p99_ms", 3),
                ("latency_p999_ms", 3),
                ("server_cpu_us_per_message", 1),
            ];
            let figures = figures.map(|(figure, decimals)| cell(measured.median(*contender, figure), decimals));
            let ratio = measured.quotient(*contender, Contender::Gateway, "latency_p99_ms");
            let verdict = (*contender == Contender::Swapped).then(|| judged_quotient(ratio, Some(P99)));
            let verdict = verdict.unwrap_or_default();
            let names = [measured.name(), contender.name().to_owned()];
            table.row(names.into_iter().chain(figures).chain(verdict).collect());
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_swaps_of_chat_count() {
        let line = |plugin, outcome, count| {
            format!("gateway_plugin_reloads_total{{plugin=\"{plugin}\",outcome=\"{outcome}\"}} {count}\n")
        };
        let metrics = [line("chat", "loaded", 1), line("system", "swapped", 2), line("chat", "swapped", 3)].concat();
        assert_eq!((swapped(&metrics), swapped("")), (3, 0));
    }

    #[test]
    fn latency_with_swaps_is_judged_by_that_without() {
        let run = |contender, swaps: Option<u32>, p99: f64| {
            let figures = json!({
                "swaps": swaps, "latency_p50_ms": 0.3, "latency_p99_ms": p99, "latency_p999_ms": 5.0,
                "server_cpu_us_per_message": 20.0,
            });
            (contender, Ok(figures))
        };
        let runs = vec![run(Contender::Gateway, None, 1.0), run(Contender::Swapped, Some(11), 1.6)];
        let table = table(&[Measured { work: works().remove(0), runs }]).to_string();
        let rows: Vec<_> = table.lines().skip(2).collect();
        let name = "20000/s, a swap each second";
        assert_eq!(
            rows,
            [
                format!("| {name} | gateway | – | 0.300 | 1.000 | 5.000 | 20.0 |  |  |  |"),
                format!("| {name} | gateway with swaps | 11 | 0.300 | 1.600 | 5.000 | 20.0 | 1.60 | ≤ 1.5 | missed |"),
            ]
        );
    }

    #[test]
    fn a_build_is_the_plugin_and_a_section() {
        let mut expected = b"plugin\x00\x15\x04swap".to_vec();
        expected.extend([0; 14]);
        expected.extend([1, 2]);
        assert_eq!(build(b"plugin", 0x0102), expected);
    }
}
