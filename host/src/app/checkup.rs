//! What `gateway check` looks at: the limits of open files and memory of the machine, the queue of new connections, and
//! the servers that the gateway uses.

use crate::{bus, config::Config, finding::Finding, net::admission, traces};
use std::{fs, path::Path};

/// The number of open files that are no connections of clients: listeners, plugins, Redis, the admin listener.
const OTHER_FILES: u64 = 64;

/// The limit of open files below which a warning is given if the configuration does not say how many sessions there may
/// be. The usual hard limit is far higher, and a limit below comes from a container or from a service without
/// `LimitNOFILE`.
const FEW_FILES: u64 = 4096;

/// The number of connections that should be able to wait until they are accepted. The listener asks for the most that
/// the system allows, which is `net.core.somaxconn`.
const BACKLOG: u32 = 1024;

/// The memory in bytes that a gateway needs without sessions, for the code of plugins above all.
const BASE_MEMORY: u64 = 128 << 20;

/// Returns what is wrong with the machine for this configuration.
pub(super) fn machine(config: &Config) -> Vec<Finding> {
    let backlog = fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
    let findings = [
        too_few_files(config).map(|text| Finding::warning("open files", text)),
        backlog.and_then(|somaxconn| short_queue(&somaxconn)),
        memory_limit().and_then(|limit| too_little_memory(limit, config)),
    ];
    findings.into_iter().flatten().collect()
}

/// Returns what is wrong with the servers that the configuration names.
pub(super) async fn servers(config: &Config) -> Vec<Finding> {
    let mut findings = match &config.redis {
        Some(redis) => bus::examine(redis).await,
        None => Vec::new(),
    };
    if let Some(settings) = &config.traces
        && let Err(error) = traces::probe(settings).await
    {
        // The gateway serves without the collector, and drops its spans.
        let text = format!("the collector takes no spans: {error}: start it, or correct the URL");
        findings.push(Finding::warning("traces.endpoint", text));
    }
    findings
}

/// Returns a warning if the limit of open files allows fewer sessions than the configuration, or only few.
pub(super) fn too_few_files(config: &Config) -> Option<String> {
    let (files, handshakes) =
        (admission::open_files(), config.limits.handshakes.unwrap_or_else(admission::default_max));
    let allowed = files.saturating_sub(u64::from(handshakes) + OTHER_FILES);
    let allows = format!("{files}, allows {allowed} sessions next to {handshakes} handshakes (limits.handshakes)");
    match config.limits.sessions {
        Some(sessions) if u64::from(sessions) > allowed => Some(format!(
            "limits.sessions is {sessions}, but the limit of open files, {allows}: raise it (ulimit -n), or lower \
             limits.sessions"
        )),
        None if files < FEW_FILES => Some(format!(
            "the limit of open files, {allows}: raise it (ulimit -n, or LimitNOFILE of systemd), or set limits.sessions"
        )),
        _ => None,
    }
}

fn short_queue(somaxconn: &str) -> Option<Finding> {
    let most: u32 = somaxconn.trim().parse().ok()?;
    (most < BACKLOG).then(|| {
        let text = format!(
            "it is {most}, and only so many new connections can wait, so some of a crowd of clients are refused: raise \
             it (sysctl -w net.core.somaxconn={BACKLOG})"
        );
        Finding::warning("net.core.somaxconn", text)
    })
}

/// Returns the limit of memory in bytes of the control group that this process is in, or of one around it.
fn memory_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = Path::new("/sys/fs/cgroup").join(group);
    let limit = |group: &Path| fs::read_to_string(group.join("memory.max")).ok()?.trim().parse::<u64>().ok();
    group.ancestors().filter_map(limit).min()
}

fn too_little_memory(limit: u64, config: &Config) -> Option<Finding> {
    let (receive, resume) = (config.server.receive_budget_bytes, config.resume.map_or(0, |resume| resume.total_bytes));
    let needed = receive as u64 + resume as u64 + BASE_MEMORY;
    (limit < needed).then(|| {
        let [limit, needed] = [limit, needed].map(|bytes| bytes >> 20);
        let text = format!(
            "the control group may use {limit} MiB, and the gateway may use {needed} MiB without its send queues: raise \
             the limit, or lower server.receive_budget_bytes and resume.total_bytes"
        );
        Finding::warning("memory", text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_queue_of_new_connections_is_found() {
        assert_eq!([short_queue("4096\n"), short_queue("1024\n"), short_queue("?")], [None, None, None]);
        assert!(short_queue("128\n").is_some_and(|found| found.text.starts_with("it is 128, and only so many new")));
    }

    #[test]
    fn memory_has_to_be_enough_for_what_the_configuration_allows() {
        let config = |keys: &str| Config::parse(&format!("plugins: {{ directory: . }}\n{keys}\n")).unwrap();
        let enough = 384 << 20;
        assert_eq!(too_little_memory(enough, &config("")), None);
        let found = too_little_memory(enough - 1, &config("")).unwrap();
        assert!(
            found.text.starts_with("the control group may use 383 MiB, and the gateway may use 384 MiB"),
            "{found:?}"
        );
        assert!(too_little_memory(enough, &config("resume: {}")).is_some());
        assert_eq!(too_little_memory(enough, &config("server: { receive_budget_bytes: 16777216 }")), None);
    }
}
