//! The meaning of gateway.yaml, with types, units and defaults.

use super::{
    auth::Auth, keys::is_within, origins::Origins, proxies::Proxies, raw, secret::without_secrets, streams::Streams,
};
use crate::{
    delivery::{limits::Limits, outbox},
    plugin, traces,
};
use gateway_wire::packet::ROUTE_SYSTEM;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The maximum size of a packet's payload, in bytes, if the settings of the plugin do not set one.
pub(super) const DEFAULT_MAX_PAYLOAD_BYTES: usize = 64 << 10;

/// The keys that take effect without a restart. [`Config::with_live_settings_of`] has their values.
const LIVE: [&str; 5] = ["auth", "games", "limits", "plugins.required", "plugins.settings"];

/// Everything that is wrong with the configuration, one line for each error. Only the first 20 errors are listed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", .path.display(), .errors.join("\n  "))]
pub struct ConfigError {
    /// The path of the file, or the name of an environment variable.
    pub path: PathBuf,
    /// The errors.
    pub errors: Vec<String>,
}

/// The configuration of a gateway. Its `Debug` shows nothing, because it contains secrets.
#[derive(Clone)]
pub struct Config {
    /// The settings of the WebSocket listener and its sessions.
    pub server: Server,
    /// The admin listener.
    pub admin: Admin,
    /// The authentication. If it is `None`, anybody may connect.
    pub auth: Option<Auth>,
    /// The limits on how much clients may use.
    pub limits: Limits,
    /// How long sessions outlive their connections. If it is `None`, they end with them.
    pub resume: Option<Resume>,
    /// The traces. If it is `None`, nothing is recorded.
    pub traces: Option<traces::Settings>,
    /// The Redis that carries the bus. If it is `None`, the bus is embedded in the process.
    pub redis: Option<Redis>,
    /// The games.
    pub games: Vec<Game>,
    /// The directory of the plugin files.
    pub directory: PathBuf,
    /// The names of the plugins without which no session begins.
    pub required: Vec<String>,
    /// The directory for compiled code. If it is `None`, the cache directory of the current user is used.
    pub cache_directory: Option<PathBuf>,
    /// The file that keeps the state of plugins over a restart. If it is `None`, state ends with the process.
    pub state_file: Option<PathBuf>,
    /// The limits on compiling a plugin.
    pub compile: CompileLimits,
    pub(super) settings: BTreeMap<String, raw::PluginSettings>,
    /// Whether the file has no content.
    pub(super) is_empty: bool,
    /// The file with all defaults filled in. A reload compares it with the new file.
    pub(super) written: serde_json::Value,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Config")
    }
}

/// The settings of the WebSocket listener and its sessions.
#[derive(Clone, Debug)]
pub struct Server {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The maximum number of bytes of one read.
    pub read_buffer_bytes: usize,
    /// The number of bytes that are gathered before a write.
    pub write_buffer_bytes: usize,
    /// The limits of a session's send queue.
    pub outbox: Arc<outbox::Limits>,
    /// The maximum size of a message in bytes, with the packet header.
    pub max_message_bytes: usize,
    /// The maximum number of bytes that all connections together hold of incomplete messages.
    pub receive_budget_bytes: usize,
    /// The maximum rate of frames that carry no packet: pings, pongs and small fragments, in frames per second.
    pub control_frames_per_s: u32,
    /// The maximum time that a message waits for a client that reads slowly.
    pub send_timeout: Duration,
    /// The maximum duration of a handshake.
    pub handshake_timeout: Duration,
    /// The time between two pings of a session.
    pub ping_interval: Duration,
    /// The time of silence after which a session is closed.
    pub idle_timeout: Duration,
    /// The time that sessions have to empty their send queues when the gateway stops.
    pub drain_timeout: Duration,
    /// The names of the request headers that plugins see when a client connects, in lower case.
    pub plugin_headers: Vec<String>,
    /// The origins of web pages that may connect. If it is `None`, pages of all origins may.
    pub allowed_origins: Option<Origins>,
    /// The subprotocols that clients may choose from.
    pub subprotocols: Vec<String>,
    /// The proxies whose word about a client's address is believed.
    pub proxies: Proxies,
    /// The files for TLS. If it is `None`, the listener speaks plain HTTP.
    pub tls: Option<Tls>,
    /// What clients are told when the gateway stops. If it is `None`, they are told nothing.
    pub reconnect: Option<Reconnect>,
}

/// What clients are told when the gateway stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// The URL that they connect to. If it is empty, it is the URL that they have.
    pub url: String,
    /// The number of clients that are told in a second.
    pub rate_per_s: u32,
}

/// How long sessions outlive their connections. The bounds of each session are in [`Server::outbox`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The time that a client has to come back.
    pub window: Duration,
    /// The number of bytes that all sessions whose clients are away may hold together.
    pub total_bytes: usize,
}

/// The files of the certificate that clients see, both in PEM form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate, followed by those of the authorities between it and the root.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// The admin listener.
#[derive(Clone)]
pub struct Admin {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The token that requests have to bring. It is only `None` if the address is a loopback address.
    pub token: Option<String>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Admin({})", self.listen)
    }
}

/// The limits on compiling a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// The maximum processor time of all threads together.
    pub cpu: Duration,
    /// The maximum memory in bytes.
    pub memory: u64,
}

/// The address and the limits of Redis.
#[derive(Clone)]
pub struct Redis {
    /// Where Redis is.
    pub place: RedisPlace,
    /// The user. It is used instead of the one in the URL.
    pub username: Option<String>,
    /// The password. It is used instead of the one in the URL.
    pub password: Option<String>,
    /// The maximum time that Redis may take to accept a connection, to take the written commands, or to answer.
    pub timeout: Duration,
    /// The time between two probes of the connections.
    pub probe_interval: Duration,
    /// The maximum size of a message from the bus, in bytes.
    pub max_message_bytes: usize,
    /// The topics that are streams.
    pub streams: Streams,
}

/// Where Redis is.
#[derive(Clone)]
pub enum RedisPlace {
    /// One server, at a `redis://` or `rediss://` URL.
    Server(String),
    /// The master that Sentinels name at present.
    Sentinel {
        /// The name of the master.
        master: String,
        /// The `redis://` or `rediss://` URLs of the Sentinels. With `rediss://`, the master is reached over TLS as well.
        urls: Vec<String>,
        /// The user at the Sentinels.
        username: Option<String>,
        /// The password at the Sentinels.
        password: Option<String>,
    },
    /// A Cluster. Its masters are found through nodes at these `redis://` or `rediss://` URLs.
    Cluster {
        /// The URLs of some nodes. With `rediss://`, all nodes are reached over TLS.
        urls: Vec<String>,
    },
}

impl RedisPlace {
    /// Returns whether it is a Cluster.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster { .. })
    }
}

impl fmt::Display for RedisPlace {
    /// Shows the place without users, passwords and queries.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(url) => f.write_str(&without_secrets(url)),
            Self::Sentinel { master, urls, .. } => write!(f, "{master} of the Sentinels {}", list(urls)),
            Self::Cluster { urls } => write!(f, "the Cluster of {}", list(urls)),
        }
    }
}

fn list(urls: &[String]) -> String {
    urls.iter().map(|url| without_secrets(url)).collect::<Vec<_>>().join(", ")
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.place, f)
    }
}

/// A game that the gateway serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Game {
    /// The game's id: 1 to 64 characters of `A-Z a-z 0-9 _ . -`.
    pub id: String,
    /// The backends of the game by name, as `host:port`. The readiness report shows whether each can be reached.
    pub backends: BTreeMap<String, String>,
}

impl Config {
    /// Returns the settings of the plugin `name`. `routes` are the routes that its manifest claims.
    #[must_use]
    pub fn plugin(&self, name: &str, routes: &[u8]) -> plugin::Settings {
        let written = self.settings.get(name).cloned().unwrap_or_default();
        let games: Vec<_> = self.games.iter().map(|game| &game.id).collect();
        let routes = written.routes.unwrap_or_else(|| routes.to_vec());
        plugin::Settings {
            limits: plugin::Limits {
                call_timeout: Duration::from_millis(written.call_timeout_ms),
                memory: written.memory_mb << 20,
                table_elements: written.table_elements,
                handles: written.handles,
                result: written.result_mb << 20,
                actions: written.actions,
                pushes: written.pushes,
                state: written.state_mb << 20,
                log_line: written.log_line_bytes,
                log_lines_per_s: written.log_lines_per_s,
            },
            max_payload: written.max_payload_bytes.unwrap_or_else(|| default_max_payload(&routes)),
            json: serde_json::json!({ "config": written.config, "games": games, "routes": routes }).to_string(),
            routes,
        }
    }

    /// Returns the largest `memory_mb` of all plugins, in bytes. A file whose plugin is not known yet gets this much.
    #[must_use]
    pub fn largest_memory(&self) -> usize {
        let default = raw::PluginSettings::default();
        self.settings.values().chain([&default]).map(|plugin| plugin.memory_mb << 20).max().unwrap_or_default()
    }

    /// Returns this configuration with the values of `other` that may change without a restart.
    #[must_use]
    pub fn with_live_settings_of(&self, other: Self) -> Self {
        let Self { auth, limits, games, required, settings, is_empty, .. } = other;
        Self { auth, limits, games, required, settings, is_empty, ..self.clone() }
    }

    /// Returns the names of the plugins that have settings.
    pub fn configured_plugins(&self) -> impl Iterator<Item = &str> {
        self.settings.keys().map(String::as_str)
    }

    /// Returns the keys that differ in `other` and that take effect only after a restart.
    #[must_use]
    pub fn restart_needed(&self, other: &Self) -> Vec<String> {
        let mut changed = Vec::new();
        differences("", &self.written, &other.written, &mut changed);
        changed.retain(|key| !LIVE.iter().any(|live| is_within(key, live)));
        changed
    }

    /// Returns why a running gateway must not go on with `new`, if it must not: the file may have lost its content by
    /// mistake, for example because the disk was full, and everybody could connect then.
    #[must_use]
    pub fn lost_in(&self, new: &Self) -> Option<&'static str> {
        if new.is_empty && !self.is_empty {
            Some("the file is empty, and it was not before: restart the gateway if all defaults are meant")
        } else if self.auth.is_some() && new.auth.is_none() {
            Some("auth: the section is missing, and tokens are checked now: to stop checking them, restart the gateway")
        } else {
            None
        }
    }

    /// Returns the files, besides gateway.yaml, whose content is a part of the settings that take effect without a
    /// restart.
    pub fn live_files(&self) -> impl Iterator<Item = &Path> {
        self.auth.iter().filter_map(|auth| auth.jwt_secret_file.as_deref())
    }
}

/// Returns the default limit on payloads, in bytes. The heartbeat route has no limit, because a heartbeat costs no more
/// than its own bytes. The cost of a payload in another plugin is not known.
fn default_max_payload(routes: &[u8]) -> usize {
    if routes.contains(&ROUTE_SYSTEM) { usize::MAX } else { DEFAULT_MAX_PAYLOAD_BYTES }
}

/// Adds the paths of all values that differ between `a` and `b`.
fn differences(path: &str, a: &serde_json::Value, b: &serde_json::Value, changed: &mut Vec<String>) {
    match (a.as_object(), b.as_object()) {
        (Some(x), Some(y)) => {
            let keys: BTreeSet<_> = x.keys().chain(y.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                differences(&path, &a[key], &b[key], changed);
            }
        }
        _ if a != b => changed.push(path.to_owned()),
        _ => {}
    }
}
