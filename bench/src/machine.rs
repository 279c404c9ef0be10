//! The machine on which the figures are measured.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use crate::output::output;

/// Describes the machine and the versions of Redis, Node and uWebSockets, with one line for each fact.
pub(crate) fn describe(node: &Result<String, String>, uws: &Result<String, String>) -> Vec<String> {
    let cores = available_parallelism().map_or(0, usize::from);
    let redis = output(Command::new("redis-server").arg("--version")).unwrap_or_default();
    let redis = redis.split(' ').find_map(|word| word.strip_prefix("v=")).unwrap_or("unknown").to_owned();
    let [node, uws] = [node, uws].map(|server| server.clone().unwrap_or_else(|why| format!("left out: {why}")));
    vec![
        format!("{cores} cores of {}, {} of memory", field("/proc/cpuinfo", "model name"), memory()),
        // The rest of the release names the build of the kernel.
        format!("Linux {}", read("/proc/sys/kernel/osrelease").split('-').next().unwrap_or_default()),
        format!("redis-server {redis}; node {node}; uWebSockets {uws}"),
        format!("load average at the start: {}", load_average()),
    ]
}

fn memory() -> String {
    let total = field("/proc/meminfo", "MemTotal");
    let kib = total.strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok());
    kib.map_or(total, |kib| format!("{} GiB", kib >> 20))
}

/// The first value of a field in a file of /proc.
fn field(file: &str, name: &str) -> String {
    let text = read(file);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    value.map_or_else(|| "unknown".to_owned(), |value| value.trim().to_owned())
}

fn load_average() -> String {
    read("/proc/loadavg").split(' ').take(1).collect()
}

fn read(file: &str) -> String {
    fs::read_to_string(file).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}
