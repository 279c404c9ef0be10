//! What `gateway check` looks at: the plugins, the certificate, the keys of tokens, the state of plugins, the limits of open
//! files and memory of the machine, the queue of new connections, and the servers that the gateway uses.

use super::{certificate, saved};
use crate::{
    auth, bus,
    config::Config,
    finding::Finding,
    net::{admission, certificate::Invalid},
    reload::{catalog::Report, reloader},
    traces,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
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
fn machine(config: &Config) -> Vec<Finding> {
    let backlog = fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
    let findings = [
        too_few_files(config).map(|text| Finding::warning("open files", text)),
        backlog.and_then(|somaxconn| short_queue(&somaxconn)),
        memory_limit().and_then(|limit| too_little_memory(limit, config)),
    ];
    findings.into_iter().flatten().collect()
}

/// Returns what is wrong with the servers that the configuration names.
async fn servers(config: &Config) -> Vec<Finding> {
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

/// Raises the soft limit of open files to the hard limit. The soft limit is low only for programs that use `select`,
/// which cannot handle more than 1024 file descriptors.
pub(super) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "cannot raise the limit of open files: each connection needs one (ulimit -n)");
    }
}

/// Loads every plugin file once, and returns the state of each file.
///
/// # Errors
/// Returns an error if no cache directory can be created, or if the machine cannot run WebAssembly.
pub fn check(config: &Config) -> anyhow::Result<Vec<Report>> {
    reloader::load_once(config)
}

/// Looks at the machine, and at Redis and the collector of traces unless `is_offline`. Returns what is wrong for this
/// configuration.
///
/// # Errors
/// Returns an error if no runtime for the connections can be started.
pub fn examine(config: &Config, is_offline: bool) -> anyhow::Result<Vec<Finding>> {
    // The gateway raises the limit as well, so the check is about the limit that it will have.
    raise_open_files();
    let mut findings = machine(config);
    if !is_offline {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        findings.extend(runtime.block_on(servers(config)));
        runtime.shutdown_background();
    }
    Ok(findings)
}

/// Reads the files of `server.tls`, if there are any. Returns a warning if the certificate can be used, but clients will
/// refuse it.
///
/// # Errors
/// Returns an [`Invalid`] that names the key, the file, what is wrong, and what would mend it.
pub fn check_certificate(config: &Config) -> Result<Option<String>, Invalid> {
    config.server.tls.as_ref().map_or(Ok(None), certificate::check)
}

/// Reads the file of the keys that check tokens, if there is one.
///
/// # Errors
/// Returns why the file has no keys.
pub fn check_keys(config: &Config) -> Result<(), String> {
    config.auth.as_ref().map_or(Ok(()), auth::check)
}

/// Reads the file with the state of plugins, if there is one, and looks whether it can be written.
///
/// # Errors
/// Returns an error if the gateway would not start with this file.
pub fn check_state(config: &Config) -> anyhow::Result<()> {
    config.state_file.as_deref().map_or(Ok(()), saved::check)
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
