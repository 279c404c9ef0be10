//! Judges what a server says about itself.

use crate::{
    config::{self, RedisPlace},
    finding::Finding,
};
use std::{
    ops::Range,
    time::{Duration, SystemTime},
};

/// By how much the clocks of the gateway and Redis may differ. Clocks that are kept by NTP differ by far less.
const MAX_SKEW: Duration = Duration::from_secs(2);

/// What a server says about itself.
pub(super) struct Facts {
    /// The answer to `INFO all`.
    pub(super) info: String,
    /// The server's clock, as the time since 1970.
    pub(super) clock: Duration,
    /// The time in which the clock was asked for.
    pub(super) asked: Range<SystemTime>,
    /// The value of `client-output-buffer-limit`, if it may be read.
    pub(super) buffer_limit: Option<String>,
    /// The value of `appendfsync`, if it may be read.
    pub(super) fsync: Option<String>,
}

impl Facts {
    /// Returns a field of `INFO`.
    fn field(&self, name: &str) -> Option<&str> {
        self.info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    /// Returns the limits of subscribers in bytes: the hard one, and the soft one. 0 is none.
    fn subscriber_limits(&self) -> Option<(u64, u64)> {
        let limits = self.buffer_limit.as_deref()?;
        let mut words = limits.split_whitespace().skip_while(|word| *word != "pubsub").skip(1);
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    }
}

/// Returns what is wrong with the server at `address`.
pub(super) fn judge(place: &str, address: &str, config: &config::Redis, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut error = |text: String| findings.push(Finding::error(place, format!("{address} {text}")));
    let version = facts.field("redis_version").unwrap_or("0");
    let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    let (is_cluster, is_node) = (config.place.is_cluster(), facts.field("cluster_enabled") == Some("1"));
    if major < 6 {
        error(format!("is Redis {version}, and the bus needs 6 or later: update it"));
    } else if is_cluster && major < 7 {
        error(format!("is Redis {version}, and a Cluster needs 7 or later for sharded publish: update it"));
    }
    if is_cluster && !is_node {
        error("is not a node of a Cluster: use redis.addr instead of redis.cluster".to_owned());
    }
    if facts.field("role") == Some("slave") && !is_cluster {
        error("is a replica, and what is published there does not reach the master: use the master".to_owned());
    }
    let mut warn = |text: String| findings.push(Finding::warning(place, format!("{address} {text}")));
    if is_node && !is_cluster {
        warn("is a node of a Cluster: use redis.cluster instead of redis.addr".to_owned());
    }
    judge_subscribers(config, facts, &mut warn);
    if let Some(skew) = skew(facts) {
        warn(format!(
            "has a clock that differs from that of this machine by {} s: set both by NTP, because tokens and messages have \
             times",
            skew.as_secs()
        ));
    }
    if !config.streams.is_empty() {
        judge_streams(config, facts, major, &mut warn);
    }
    findings
}

/// Checks how much Redis keeps for a gateway that reads slowly.
fn judge_subscribers(config: &config::Redis, facts: &Facts, warn: &mut impl FnMut(String)) {
    let Some((hard, soft)) = facts.subscriber_limits() else { return };
    let most = config.max_message_bytes as u64;
    if hard == 0 && soft == 0 {
        warn("has no limit in client-output-buffer-limit pubsub, so a gateway that hangs fills its memory: set one, such \
              as `pubsub 256mb 64mb 60`"
            .to_owned());
    } else if hard != 0 && hard < most {
        warn(format!(
            "drops a gateway for which more than {hard} bytes wait (client-output-buffer-limit pubsub), and one message \
             may have {most} (server.max_message_bytes): raise the limit, or lower server.max_message_bytes"
        ));
    }
}

/// Returns by how much the clocks differ, if it is too much.
fn skew(facts: &Facts) -> Option<Duration> {
    let since_1970 = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (before, after) = (since_1970(facts.asked.start), since_1970(facts.asked.end));
    let skew = facts.clock.saturating_sub(after).max(before.saturating_sub(facts.clock));
    (skew > MAX_SKEW).then_some(skew)
}

/// Checks that what a stream has accepted stays there.
fn judge_streams(config: &config::Redis, facts: &Facts, major: u32, warn: &mut impl FnMut(String)) {
    if major < 7 {
        let version = facts.field("redis_version").unwrap_or_default();
        warn(format!("is Redis {version}: the lag of streams and lost entries are only known with 7 or later"));
    }
    let policy = facts.field("maxmemory_policy").unwrap_or_default();
    if policy.starts_with("allkeys") {
        warn(format!(
            "removes whole streams when its memory is full (maxmemory-policy {policy}): set maxmemory-policy noeviction"
        ));
    }
    match (facts.field("aof_enabled"), facts.fsync.as_deref()) {
        (Some("0"), _) => warn(
            "loses its streams when it restarts: set appendonly yes and appendfsync always, or take topics out of \
             redis.streams"
                .to_owned(),
        ),
        (_, Some(fsync)) if fsync != "always" => warn(format!(
            "may lose the last entries of streams when it crashes (appendfsync {fsync}): set appendfsync always"
        )),
        _ => {}
    }
    let replicas = facts.field("connected_slaves").and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
    let is_master = facts.field("role") != Some("slave");
    if is_master && replicas < config.streams.replicas {
        let wanted = config.streams.replicas;
        warn(format!(
            "has {replicas} replicas, and redis.stream_replicas is {wanted}, so requests to streams are refused: start \
             replicas, or lower redis.stream_replicas"
        ));
    }
    if config.streams.replicas == 0 && !matches!(config.place, RedisPlace::Server(_)) {
        warn("may lose entries of streams in a failover: set redis.stream_replicas to 1 or more".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const GOOD: &str = "redis_version:7.2.4\r\nrole:master\r\ncluster_enabled:0\r\nmaxmemory_policy:noeviction\r\n\
                        aof_enabled:1\r\nconnected_slaves:1\r\n";

    fn facts(info: &str) -> Facts {
        let now = SystemTime::now();
        Facts {
            info: info.to_owned(),
            clock: now.duration_since(SystemTime::UNIX_EPOCH).unwrap(),
            asked: now..now,
            buffer_limit: Some("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60".to_owned()),
            fsync: Some("always".to_owned()),
        }
    }

    /// Asserts that these texts are found, each with its severity as the first letter.
    #[track_caller]
    fn check(keys: &str, facts: &Facts, expected: &[&str]) {
        let config = Config::parse(&format!("plugins: {{ directory: . }}\nredis: {{ {keys} }}\n")).unwrap();
        let found = judge("redis", "h:1", &config.redis.unwrap(), facts);
        let found: Vec<_> = found.iter().map(|found| format!("{:?} {}", found.severity, found.text)).collect();
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found:?} does not begin with {expected:?}");
        }
    }

    #[test]
    fn a_good_server_has_no_findings() {
        check("addr: 'h:1'", &facts(GOOD), &[]);
        check("addr: 'h:1', streams: [a], stream_replicas: 1", &facts(GOOD), &[]);
        check("cluster: { addrs: ['h:1'] }", &facts(&GOOD.replace("cluster_enabled:0", "cluster_enabled:1")), &[]);
    }

    #[test]
    fn old_servers_and_wrong_roles_are_errors() {
        let old = |version: &str| facts(&GOOD.replace("7.2.4", version));
        check("addr: 'h:1'", &old("5.0.14"), &["Error h:1 is Redis 5.0.14, and the bus needs 6"]);
        check("addr: 'h:1'", &old("6.2.0"), &[]);
        let node = facts(&GOOD.replace("7.2.4", "6.2.0").replace("cluster_enabled:0", "cluster_enabled:1"));
        check("cluster: { addrs: ['h:1'] }", &node, &["Error h:1 is Redis 6.2.0, and a Cluster needs 7"]);
        check("cluster: { addrs: ['h:1'] }", &facts(GOOD), &["Error h:1 is not a node of a Cluster"]);
        check("addr: 'h:1'", &facts(&GOOD.replace("master", "slave")), &["Error h:1 is a replica"]);
        let node = facts(&GOOD.replace("cluster_enabled:0", "cluster_enabled:1"));
        check("addr: 'h:1'", &node, &["Warning h:1 is a node of a Cluster"]);
    }

    #[test]
    fn streams_need_memory_a_file_and_replicas() {
        let old = facts(&GOOD.replace("7.2.4", "6.2.0"));
        check("streams: [a]", &old, &["Warning h:1 is Redis 6.2.0: the lag"]);
        let evicting = facts(&GOOD.replace("noeviction", "allkeys-lru"));
        check("streams: [a]", &evicting, &["Warning h:1 removes whole streams"]);
        check("addr: 'h:1'", &evicting, &[]);
        let volatile = facts(&GOOD.replace("aof_enabled:1", "aof_enabled:0"));
        check("streams: [a]", &volatile, &["Warning h:1 loses its streams when it restarts"]);
        let lazy = Facts { fsync: Some("everysec".to_owned()), ..facts(GOOD) };
        check("streams: [a]", &lazy, &["Warning h:1 may lose the last entries"]);
        check("streams: [a], stream_replicas: 2", &facts(GOOD), &["Warning h:1 has 1 replicas"]);
        let sentinel = "sentinel: { master: m, addrs: ['h:1'] }, streams: [a]";
        check(sentinel, &facts(GOOD), &["Warning h:1 may lose entries of streams in a failover"]);
    }

    #[test]
    fn buffers_of_subscribers_have_a_limit_that_fits_a_message() {
        let with = |limits: &str| Facts { buffer_limit: Some(format!("normal 0 0 0 pubsub {limits}")), ..facts(GOOD) };
        check("addr: 'h:1'", &with("0 0 0"), &["Warning h:1 has no limit in client-output-buffer-limit"]);
        check("addr: 'h:1'", &with("0 1000 60"), &[]);
        check(
            "addr: 'h:1'",
            &with("16777215 0 0"),
            &["Warning h:1 drops a gateway for which more than 16777215 bytes"],
        );
        check("addr: 'h:1'", &with("16777216 0 0"), &[]);
        check("addr: 'h:1'", &Facts { buffer_limit: None, ..facts(GOOD) }, &[]);
    }

    #[test]
    fn clocks_may_differ_by_two_seconds_and_the_time_of_the_question() {
        let good = facts(GOOD);
        let moved = |clock| Facts { clock, ..facts(GOOD) };
        check("addr: 'h:1'", &moved(good.clock + Duration::from_secs(3600)), &["Warning h:1 has a clock that differs"]);
        check("addr: 'h:1'", &moved(good.clock - Duration::from_secs(3)), &["Warning h:1 has a clock that differs"]);
        check("addr: 'h:1'", &moved(good.clock + Duration::from_secs(1)), &[]);
    }
}
