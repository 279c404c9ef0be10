//! gateway.yaml: what is written ([`raw`]) becomes what is meant, once, or every error in it is told.

mod duplicates;
mod keys;
mod raw;
mod resolve;
#[cfg(test)]
mod tests;

use crate::{delivery::outbox, file, plugin};
use gateway_wire::packet::ROUTE_SYSTEM;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The longest payload of a packet for a plugin without a setting of its own.
const DEFAULT_MAX_PAYLOAD_BYTES: usize = 64 << 10;

/// The errors of one file that are told.
const MAX_ERRORS: usize = 20;

/// Everything that is wrong with a file, a line each. Of many errors the first [`MAX_ERRORS`] are told.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", .path.display(), .errors.join("\n  "))]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub errors: Vec<String>,
}

/// What the operator wants.
#[derive(Clone, Debug)]
pub struct Config {
    /// Of the WebSocket side.
    pub server: Server,
    /// Where the admin side listens.
    pub admin: SocketAddr,
    /// Who may connect; without it, anybody.
    pub auth: Option<Auth>,
    /// The bus; without it, the embedded one.
    pub redis: Option<Redis>,
    /// The games.
    pub games: Vec<Game>,
    /// Where the plugins are.
    pub directory: PathBuf,
    /// Where compiled code is kept, if not where the system keeps such files for this user.
    pub cache_directory: Option<PathBuf>,
    /// What it may take to compile a plugin.
    pub compile: CompileLimits,
    settings: BTreeMap<String, raw::PluginSettings>,
    written: serde_json::Value,
}

/// Of the WebSocket side.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What is read from a connection at once.
    pub read_buffer_bytes: usize,
    /// What is gathered before it is written.
    pub write_buffer_bytes: usize,
    /// What may wait for one session.
    pub outbox: outbox::Limits,
    /// The largest message, header included.
    pub max_message_bytes: usize,
    /// What all connections together may hold of messages that are not whole yet.
    pub receive_budget_bytes: usize,
    /// The frames without a packet that a client may send: pings, pongs and small fragments.
    pub control_frames_per_s: u32,
    /// A client that takes a message no sooner than this is too slow.
    pub send_timeout: Duration,
    /// An upgrade takes no longer.
    pub handshake_timeout: Duration,
    /// How often a session is pinged.
    pub ping_interval: Duration,
    /// A session that is silent for so long ends.
    pub idle_timeout: Duration,
    /// How long sessions may take to empty their queues when the gateway stops.
    pub drain_timeout: Duration,
}

/// What it may take to compile a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Processor time, of all threads together.
    pub cpu: Duration,
    /// Memory in bytes.
    pub memory: u64,
}

/// Who may connect.
#[derive(Clone)]
pub struct Auth {
    /// The secret that tokens are signed with (JWT, HS256).
    pub jwt_secret: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth")
    }
}

/// Where Redis is.
#[derive(Clone)]
pub struct Redis {
    /// A redis:// or rediss:// URL.
    pub url: String,
    /// Goes before the one in the URL.
    pub password: Option<String>,
    /// How long a Redis that hangs may keep an answer or readiness waiting: it has to accept a connection, take what is written and answer within it.
    pub timeout: Duration,
    /// The largest message that is taken from the bus, in bytes.
    pub max_message_bytes: usize,
}

impl Redis {
    /// The URL without what is secret.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.url.rsplit_once('@').map_or(self.url.as_str(), |(_, host)| host)
    }
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.shown())
    }
}

/// A game.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Game {
    /// 1 to 64 characters of `A-Z a-z 0-9 _ . -`.
    pub id: String,
    /// `host:port` of its chat backend, whose reachability the readiness report shows.
    pub chat_backend: Option<String>,
}

impl Default for Config {
    /// What an empty file means.
    fn default() -> Self {
        resolve::resolve(raw::File::default(), &mut Vec::new())
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse_file(path, &Self::text(path)?)
    }

    /// Reads a file's text and does not parse it. An error may be over a moment later.
    ///
    /// # Errors
    /// [`ConfigError`] with the reason.
    pub fn text(path: &Path) -> Result<String, ConfigError> {
        let fail = |error: String| ConfigError { path: path.to_owned(), errors: vec![error] };
        let bytes = file::read(path, MAX_FILE_BYTES).map_err(|error| fail(error.to_string()))?;
        String::from_utf8(bytes).map_err(|error| fail(format!("it is not UTF-8: {error}")))
    }

    /// Parses the text that was read from a file.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong.
    pub fn parse_file(path: &Path, text: &str) -> Result<Self, ConfigError> {
        Self::parse(text).map_err(|mut errors| {
            let more = errors.len().saturating_sub(MAX_ERRORS);
            errors.truncate(MAX_ERRORS);
            if more > 0 {
                errors.push(format!("and {more} more"));
            }
            ConfigError { path: path.to_owned(), errors }
        })
    }

    /// Parses a file's text.
    ///
    /// # Errors
    /// Everything that is wrong, a line each.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        if let Some(error) = duplicates::check(text) {
            return Err(vec![error]);
        }
        let value: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| vec![error.to_string()])?;
        let mut errors = keys::unknown(text, &value);
        // An empty file is a file of defaults.
        let file = if value.is_null() { Ok(raw::File::default()) } else { serde_yaml::from_str(text) };
        match file {
            Ok(file) => {
                let config = resolve::resolve(file, &mut errors);
                if errors.is_empty() { Ok(config) } else { Err(errors) }
            }
            Err(error) => {
                errors.push(error.to_string());
                Err(errors)
            }
        }
    }

    /// The settings of the plugin with this name, which by itself claims `routes`.
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
                log_line: written.log_line_bytes,
                log_lines_per_s: written.log_lines_per_s,
            },
            max_payload: written.max_payload_bytes.unwrap_or_else(|| default_max_payload(&routes)),
            json: serde_json::json!({ "config": written.config, "games": games, "routes": routes }).to_string(),
            routes,
        }
    }

    /// This one, but with what may change without a restart from `other`.
    #[must_use]
    pub fn with_live_settings_of(&self, other: Self) -> Self {
        Self { games: other.games, settings: other.settings, ..self.clone() }
    }

    /// The names of the plugins that have settings.
    pub fn configured_plugins(&self) -> impl Iterator<Item = &str> {
        self.settings.keys().map(String::as_str)
    }

    /// The keys that `other` changes and that need a restart.
    #[must_use]
    pub fn restart_needed(&self, other: &Self) -> Vec<String> {
        let mut changed = Vec::new();
        differences("", &self.written, &other.written, &mut changed);
        changed.retain(|key| !key.starts_with("games") && !key.starts_with("plugins.settings"));
        changed
    }
}

/// A heartbeat comes back whatever its size, and costs no more than its bytes. What else a plugin does with a payload is not known.
fn default_max_payload(routes: &[u8]) -> usize {
    if routes.contains(&ROUTE_SYSTEM) { usize::MAX } else { DEFAULT_MAX_PAYLOAD_BYTES }
}

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
