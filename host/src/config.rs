//! gateway.yaml: what is written ([`raw`]) becomes what is meant, once, or every error in it is told.

mod keys;
mod raw;
#[cfg(test)]
mod tests;
mod twice;

use crate::{delivery::outbox, file, plugin};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

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
        resolve(raw::File::default(), &mut Vec::new())
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
        if let Some(error) = twice::check(text) {
            return Err(vec![error]);
        }
        let value: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| vec![error.to_string()])?;
        let mut errors = keys::unknown(text, &value);
        // An empty file is a file of defaults.
        let file = if value.is_null() { Ok(raw::File::default()) } else { serde_yaml::from_str(text) };
        match file {
            Ok(file) => {
                let config = resolve(file, &mut errors);
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
            max_payload: written.max_payload_bytes,
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

fn resolve(file: raw::File, errors: &mut Vec<String>) -> Config {
    let written = serde_json::to_value(&file).unwrap_or_default();
    let directory = PathBuf::from(&file.plugins.directory);
    if !directory.is_dir() {
        let shown = directory.display();
        errors.push(format!("plugins.directory: there is no directory {shown} (`make plugins` fills plugins/dist)"));
    }
    range("plugins.compile_cpu_s", file.plugins.compile_cpu_s, 1, 3600, errors);
    range("plugins.compile_memory_mb", file.plugins.compile_memory_mb, 256, 1 << 20, errors);
    for (name, plugin) in &file.plugins.settings {
        check_plugin(name, plugin, errors);
    }
    Config {
        server: server(&file.server, errors),
        admin: address("admin.listen", &file.admin.listen, file.admin.listen.as_str(), errors),
        auth: file.auth.map(|auth| {
            if auth.jwt_secret.len() < 32 {
                errors.push("auth.jwt_secret: at least 32 bytes, as HS256 asks for (RFC 7518, 3.2)".to_owned());
            }
            Auth { jwt_secret: auth.jwt_secret }
        }),
        redis: file.redis.map(|written| redis(written, file.server.max_message_bytes, errors)),
        games: games(file.games, errors),
        directory,
        cache_directory: file.plugins.cache_directory.map(PathBuf::from),
        compile: CompileLimits {
            cpu: Duration::from_secs(file.plugins.compile_cpu_s),
            memory: file.plugins.compile_memory_mb << 20,
        },
        settings: file.plugins.settings,
        written,
    }
}

fn range(key: &str, value: u64, from: u64, to: u64, errors: &mut Vec<String>) {
    if !(from..=to).contains(&value) {
        errors.push(format!("{key}: {value} is not within {from} to {to}"));
    }
}

fn server(raw: &raw::Server, errors: &mut Vec<String>) -> Server {
    let mut range =
        |key: &str, value: u64, from: u64, to: u64| range(&format!("server.{key}"), value, from, to, errors);
    range("read_buffer_bytes", raw.read_buffer_bytes as u64, 256, 1 << 24);
    range("write_buffer_bytes", raw.write_buffer_bytes as u64, 256, 1 << 24);
    range("send_queue", raw.send_queue as u64, 1, 1 << 20);
    range("send_queue_bytes", raw.send_queue_bytes as u64, 256, 1 << 32);
    range("send_timeout_s", raw.send_timeout_s, 1, 86_400);
    range("max_message_bytes", raw.max_message_bytes as u64, 256, 1 << 30);
    range("receive_budget_bytes", raw.receive_budget_bytes as u64, raw.max_message_bytes as u64, 1 << 40);
    range("control_frames_per_s", u64::from(raw.control_frames_per_s), 1, 1_000_000);
    range("handshake_timeout_s", raw.handshake_timeout_s, 1, 3600);
    range("ping_interval_s", raw.ping_interval_s, 1, 86_400);
    range("idle_timeout_s", raw.idle_timeout_s, 1, 86_400);
    range("drain_timeout_s", raw.drain_timeout_s, 0, 3600);
    if raw.idle_timeout_s <= raw.ping_interval_s {
        let (idle, ping) = (raw.idle_timeout_s, raw.ping_interval_s);
        errors.push(format!("server.idle_timeout_s: {idle} is not more than ping_interval_s, {ping}"));
    }
    Server {
        listen: address("server.host", &raw.host, (raw.host.as_str(), raw.port), errors),
        read_buffer_bytes: raw.read_buffer_bytes,
        write_buffer_bytes: raw.write_buffer_bytes,
        outbox: outbox::Limits {
            messages: raw.send_queue,
            bytes: raw.send_queue_bytes,
            close_when_full: raw.on_full_queue == raw::OnFullQueue::Close,
            batch_bytes: raw.write_buffer_bytes,
            max_delay: Duration::from_secs(raw.send_timeout_s),
        },
        max_message_bytes: raw.max_message_bytes,
        receive_budget_bytes: raw.receive_budget_bytes,
        control_frames_per_s: raw.control_frames_per_s,
        send_timeout: Duration::from_secs(raw.send_timeout_s),
        handshake_timeout: Duration::from_secs(raw.handshake_timeout_s),
        ping_interval: Duration::from_secs(raw.ping_interval_s),
        idle_timeout: Duration::from_secs(raw.idle_timeout_s),
        drain_timeout: Duration::from_secs(raw.drain_timeout_s),
    }
}

fn address(key: &str, written: &str, address: impl ToSocketAddrs, errors: &mut Vec<String>) -> SocketAddr {
    let found = address.to_socket_addrs().map_err(|error| error.to_string());
    found.and_then(|mut found| found.next().ok_or_else(|| "it has no address".to_owned())).unwrap_or_else(|error| {
        errors.push(format!("{key}: {written} is nowhere to listen: {error}"));
        SocketAddr::from(([127, 0, 0, 1], 0))
    })
}

fn redis(raw: raw::Redis, max_message_bytes: usize, errors: &mut Vec<String>) -> Redis {
    let url = if raw.addr.contains("://") { raw.addr } else { format!("redis://{}", raw.addr) };
    if let Err(error) = redis::IntoConnectionInfo::into_connection_info(url.as_str()) {
        errors.push(format!("redis.addr: neither host:port nor a redis:// or rediss:// URL: {error}"));
    }
    if !(100..=60_000).contains(&raw.timeout_ms) {
        errors.push(format!("redis.timeout_ms: {} is not within 100 to 60000", raw.timeout_ms));
    }
    Redis {
        url,
        password: Some(raw.password).filter(|password| !password.is_empty()),
        timeout: Duration::from_millis(raw.timeout_ms),
        max_message_bytes,
    }
}

fn games(raw: Vec<raw::Game>, errors: &mut Vec<String>) -> Vec<Game> {
    let mut seen = BTreeSet::new();
    let mut games = Vec::new();
    for (i, game) in raw.into_iter().enumerate() {
        let legal = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !(1..=64).contains(&game.id.len()) || !game.id.chars().all(legal) {
            errors.push(format!("games[{i}].id: {:?} is not 1 to 64 characters of A-Z a-z 0-9 _ . -", game.id));
        }
        if !seen.insert(game.id.clone()) {
            errors.push(format!("games[{i}].id: {:?} is there twice", game.id));
        }
        let chat_backend = game.chat_backend.map(|backend| {
            if backend.port == 0 {
                errors.push(format!("games[{i}].chat_backend.port: a port is wanted, 1 to 65535"));
            }
            format!("{}:{}", backend.host, backend.port)
        });
        games.push(Game { id: game.id, chat_backend });
    }
    games
}

fn check_plugin(name: &str, raw: &raw::PluginSettings, errors: &mut Vec<String>) {
    let key = format!("plugins.settings.{name}");
    let mut range =
        |name: &str, value: u64, from: u64, to: u64| range(&format!("{key}.{name}"), value, from, to, errors);
    range("call_timeout_ms", raw.call_timeout_ms, 1, 10_000);
    range("memory_mb", raw.memory_mb as u64, 1, 4096);
    range("table_elements", raw.table_elements as u64, 1, 100_000_000);
    range("handles", raw.handles as u64, 1, 1_000_000);
    range("result_mb", raw.result_mb as u64, 1, 1024);
    range("actions", raw.actions as u64, 1, 1_000_000);
    range("pushes", raw.pushes as u64, 1, 10_000_000);
    range("max_payload_bytes", raw.max_payload_bytes as u64, 0, 1 << 30);
    range("log_line_bytes", raw.log_line_bytes as u64, 1, 1 << 20);
    range("log_lines_per_s", u64::from(raw.log_lines_per_s), 1, 1_000_000);
    let routes = raw.routes.as_deref().unwrap_or_default();
    if let Some((_, route)) = routes.iter().enumerate().find(|(i, route)| routes[..*i].contains(route)) {
        errors.push(format!("{key}.routes: {route} is there twice"));
    }
}
