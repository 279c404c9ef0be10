//! Turns the file as it is written into the settings that it means. Gives values their types and units, and checks
//! ranges.

use super::{
    auth,
    origins::Origins,
    proxies::Proxies,
    range::range,
    raw, redis, secret,
    settings::{Admin, CompileLimits, Config, Game, Reconnect, Resume, Server, Tls},
    traces, url,
};
use crate::delivery::{
    limits::{Limits, OnUserLimit, Rates},
    outbox,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The minimum length of the token of the admin listener, in bytes.
const MIN_ADMIN_TOKEN_BYTES: usize = 16;

/// The maximum number of request headers that plugins see.
const MAX_PLUGIN_HEADERS: usize = 32;

/// Returns the configuration that a file describes. Adds a line to `errors` for each value that is not valid. If there
/// are errors, the configuration must not be used.
pub(super) fn resolve(file: raw::File, errors: &mut Vec<String>) -> Config {
    let written = serde_json::to_value(&file).unwrap_or_default();
    let directory = PathBuf::from(&file.plugins.directory);
    check_directory(&directory, errors);
    if file.plugins.cache_directory.as_deref() == Some("") {
        errors.push("plugins.cache_directory: it is empty: leave the key out for the user's cache".to_owned());
    }
    let state_file = file.plugins.state_file.map(PathBuf::from);
    check_state_file(state_file.as_deref(), errors);
    range("plugins.compile_cpu_s", file.plugins.compile_cpu_s, 1, 3600, errors);
    range("plugins.compile_memory_mb", file.plugins.compile_memory_mb, 256, 1 << 20, errors);
    for (name, plugin) in &file.plugins.settings {
        check_plugin(name, plugin, errors);
    }
    let server = server(&file.server, file.resume.as_ref(), file.auth.is_some(), errors);
    let admin = admin(file.admin, errors);
    if is_same_address(server.listen, admin.listen) {
        let (admin, server) = (admin.listen, server.listen);
        errors.push(format!(
            "admin.listen: {admin} is in use by server.host and server.port, which are {server}: choose another port"
        ));
    }
    Config {
        server,
        admin,
        auth: file.auth.map(|written| auth::resolve(written, errors)),
        limits: limits(&file.limits, errors),
        resume: file.resume.as_ref().map(|written| resume(written, errors)),
        traces: file.traces.map(|written| traces::resolve(written, errors)),
        redis: file.redis.map(|written| redis::resolve(written, file.server.max_message_bytes, errors)),
        games: games(file.games, errors),
        directory,
        required: file.plugins.required,
        cache_directory: file.plugins.cache_directory.map(PathBuf::from),
        state_file,
        compile: CompileLimits {
            cpu: Duration::from_secs(file.plugins.compile_cpu_s),
            memory: file.plugins.compile_memory_mb << 20,
        },
        settings: file.plugins.settings,
        is_empty: false,
        written,
    }
}

fn check_directory(directory: &Path, errors: &mut Vec<String>) {
    if directory.is_dir() {
        return;
    }
    let shown = directory.display();
    let mut error = format!("plugins.directory: there is no directory {shown}");
    if let Some(absolute) = std::path::absolute(directory).ok().filter(|absolute| absolute != directory) {
        error += &format!(": relative paths begin at the working directory, so this is {}", absolute.display());
    }
    if directory.ends_with("plugins/dist") {
        error += " (in the repository, `make plugins` fills it)";
    }
    errors.push(error);
}

/// Returns whether two listeners cannot have these addresses at the same time. Port 0 is any free port.
fn is_same_address(a: SocketAddr, b: SocketAddr) -> bool {
    // A listener on all addresses of IPv6 takes those of IPv4 as well.
    let covers = |a: SocketAddr, b: SocketAddr| a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || covers(a, b) || covers(b, a))
}

/// Checks that the directory of the file exists. The file is written only when the gateway stops, which is too late for
/// an error.
fn check_state_file(path: Option<&Path>, errors: &mut Vec<String>) {
    let Some(path) = path else { return };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.file_name().is_none() || path.is_dir() {
        errors.push(format!("plugins.state_file: {path:?} is not the path of a file"));
    } else if !directory.is_dir() {
        errors.push(format!("plugins.state_file: there is no directory {}, create it", directory.display()));
    }
}

fn server(raw: &raw::Server, resume: Option<&raw::Resume>, has_auth: bool, errors: &mut Vec<String>) -> Server {
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
        outbox: Arc::new(outbox::Limits {
            messages: raw.send_queue,
            bytes: raw.send_queue_bytes,
            close_when_full: raw.on_full_queue == raw::OnFullQueue::Close,
            batch_bytes: raw.write_buffer_bytes,
            max_delay: Duration::from_secs(raw.send_timeout_s),
            replay: resume.map(|resume| outbox::ReplayLimits { messages: resume.messages, bytes: resume.bytes }),
        }),
        max_message_bytes: raw.max_message_bytes,
        receive_budget_bytes: raw.receive_budget_bytes,
        control_frames_per_s: raw.control_frames_per_s,
        send_timeout: Duration::from_secs(raw.send_timeout_s),
        handshake_timeout: Duration::from_secs(raw.handshake_timeout_s),
        ping_interval: Duration::from_secs(raw.ping_interval_s),
        idle_timeout: Duration::from_secs(raw.idle_timeout_s),
        drain_timeout: Duration::from_secs(raw.drain_timeout_s),
        plugin_headers: plugin_headers(&raw.plugin_headers, has_auth, errors),
        allowed_origins: raw.allowed_origins.as_ref().map(|written| Origins::resolve(written, errors)),
        subprotocols: subprotocols(&raw.subprotocols, errors),
        proxies: Proxies::resolve(&raw.trusted_proxies, raw.proxy_protocol, errors),
        tls: raw.tls.as_ref().map(|tls| Tls {
            cert: pem_file("server.tls.cert", &tls.cert, errors),
            key: pem_file("server.tls.key", &tls.key, errors),
        }),
        reconnect: raw.reconnect.as_ref().map(|written| reconnect(written, errors)),
    }
}

/// Returns the path of a file. The file itself is read when the gateway starts and whenever it changes.
fn pem_file(key: &str, path: &str, errors: &mut Vec<String>) -> PathBuf {
    if path.is_empty() {
        errors.push(format!("{key}: the path of a PEM file is required"));
    }
    PathBuf::from(path)
}

fn limits(raw: &raw::Limits, errors: &mut Vec<String>) -> Limits {
    let mut range = |key: &str, value: Option<u32>, to: u64| {
        if let Some(value) = value {
            range(&format!("limits.{key}"), u64::from(value), 1, to, errors);
        }
        value
    };
    Limits {
        sessions: range("sessions", raw.sessions, 100_000_000),
        sessions_per_ip: range("sessions_per_ip", raw.sessions_per_ip, 100_000_000),
        handshakes_per_s_per_ip: range("handshakes_per_s_per_ip", raw.handshakes_per_s_per_ip, 1_000_000),
        new_sessions_per_s: range("new_sessions_per_s", raw.new_sessions_per_s, 1_000_000),
        handshakes: range("handshakes", raw.handshakes, 100_000_000),
        sessions_per_user: range("sessions_per_user", raw.sessions_per_user, 1_000_000),
        on_user_limit: match raw.on_user_limit {
            raw::OnUserLimit::CloseOldest => OnUserLimit::CloseOldest,
            raw::OnUserLimit::Refuse => OnUserLimit::Refuse,
        },
        rates: Rates {
            packets_per_s: range("packets_per_s", raw.packets_per_s, 100_000_000).unwrap_or(0),
            bytes_per_s: range("bytes_per_s", raw.bytes_per_s, u64::from(u32::MAX)).unwrap_or(0),
        },
    }
}

fn reconnect(raw: &raw::Reconnect, errors: &mut Vec<String>) -> Reconnect {
    range("server.reconnect.rate_per_s", u64::from(raw.rate_per_s), 1, 1_000_000, errors);
    // Browsers refuse a URL with a fragment.
    if !raw.url.is_empty() && (raw.url.contains('#') || url::parse(&raw.url, ["ws", "wss"]).is_none()) {
        errors.push(
            "server.reconnect.url: it is not a ws:// or wss:// URL without user, password and fragment".to_owned(),
        );
    }
    Reconnect { url: raw.url.clone(), rate_per_s: raw.rate_per_s }
}

fn resume(raw: &raw::Resume, errors: &mut Vec<String>) -> Resume {
    range("resume.window_s", raw.window_s, 1, 86_400, errors);
    // An acknowledgement has 16 bits of a number, so fewer messages are kept than these bits can tell apart.
    range("resume.messages", u64::from(raw.messages), 1, 1 << 15, errors);
    range("resume.bytes", u64::from(raw.bytes), 256, 8 << 20, errors);
    range("resume.total_bytes", raw.total_bytes, u64::from(raw.bytes), 1 << 40, errors);
    Resume {
        window: Duration::from_secs(raw.window_s),
        total_bytes: usize::try_from(raw.total_bytes).unwrap_or(usize::MAX),
    }
}

/// Returns the names of subprotocols. Checks that they are tokens, and that none looks like a client's token.
fn subprotocols(raw: &[String], errors: &mut Vec<String>) -> Vec<String> {
    const KEY: &str = "server.subprotocols";
    let mut seen = HashSet::new();
    for written in raw {
        if !is_token(written) {
            errors.push(format!("{KEY}: {written:?} is not the name of a subprotocol, such as game.v1"));
        } else if !seen.insert(written) {
            errors.push(format!("{KEY}: {written:?} is a duplicate"));
        } else if written.starts_with("bearer.") {
            errors.push(format!("{KEY}: {written:?} would be read as a client's token, rename it"));
        }
    }
    raw.to_vec()
}

/// Returns whether a text is a token (RFC 9110, 5.6.2).
fn is_token(text: &str) -> bool {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.chars().all(is_legal)
}

/// Returns the names of headers in lower case. Checks that they are tokens.
fn plugin_headers(raw: &[String], has_auth: bool, errors: &mut Vec<String>) -> Vec<String> {
    const KEY: &str = "server.plugin_headers";
    if raw.len() > MAX_PLUGIN_HEADERS {
        errors.push(format!("{KEY}: {} headers, and {MAX_PLUGIN_HEADERS} are the most", raw.len()));
        return Vec::new();
    }
    let mut headers = Vec::new();
    for written in raw {
        let name = written.to_ascii_lowercase();
        if !is_token(&name) {
            errors.push(format!("{KEY}: {written:?} is not the name of a header"));
        } else if headers.contains(&name) {
            errors.push(format!("{KEY}: {written:?} is a duplicate"));
        } else if name == "authorization" && has_auth {
            // A checked token is dropped, and a plugin that could read it could keep it.
            errors.push(format!("{KEY}: {written:?} is checked by `auth`, and plugins see its claims"));
        }
        headers.push(name);
    }
    headers
}

/// Returns the address that is written under a key. Adds a line to `errors` if there is none.
pub(super) fn address(key: &str, written: &str, address: impl ToSocketAddrs, errors: &mut Vec<String>) -> SocketAddr {
    let found = address.to_socket_addrs().map_err(|error| error.to_string());
    found.and_then(|mut found| found.next().ok_or_else(|| "it has no address".to_owned())).unwrap_or_else(|error| {
        errors.push(format!("{key}: cannot listen on {written}: {error}"));
        SocketAddr::from(([127, 0, 0, 1], 0))
    })
}

fn admin(raw: raw::Admin, errors: &mut Vec<String>) -> Admin {
    let listen = address("admin.listen", &raw.listen, raw.listen.as_str(), errors);
    let is_open = raw.token.is_none() && raw.token_file.is_none();
    let broken_rule = |token: &str| {
        let is_good = token.len() >= MIN_ADMIN_TOKEN_BYTES && token.bytes().all(|byte| byte.is_ascii_graphic());
        let least = MIN_ADMIN_TOKEN_BYTES;
        (!is_good).then(|| format!("at least {least} bytes of visible ASCII, `openssl rand -hex 32` makes one"))
    };
    let token = secret::resolve("admin.token", raw.token, raw.token_file, broken_rule, errors);
    if is_open && !listen.ip().is_loopback() {
        errors.push(format!(
            "admin.listen: other machines can reach {}, so set admin.token, or listen on 127.0.0.1",
            raw.listen
        ));
    }
    Admin { listen, token }
}

fn games(raw: Vec<raw::Game>, errors: &mut Vec<String>) -> Vec<Game> {
    let mut seen = BTreeSet::new();
    let mut games = Vec::new();
    for (i, game) in raw.into_iter().enumerate() {
        if !is_name(&game.id) {
            errors.push(format!("games[{i}].id: {:?} is not 1 to 64 characters of A-Z a-z 0-9 _ . -", game.id));
        }
        if !seen.insert(game.id.clone()) {
            errors.push(format!("games[{i}].id: {:?} is a duplicate", game.id));
        }
        games.push(Game { backends: backends(&format!("games[{i}]"), &game, errors), id: game.id });
    }
    games
}

/// Returns whether a text may be the id of a game or the name of a backend.
fn is_name(text: &str) -> bool {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    (1..=64).contains(&text.len()) && text.chars().all(is_legal)
}

/// Returns the backends of a game by name. The key `chat_backend` is another spelling of `backends.chat`.
fn backends(key: &str, game: &raw::Game, errors: &mut Vec<String>) -> BTreeMap<String, String> {
    let named = game.backends.iter().map(|(name, backend)| (name.as_str(), format!("backends.{name}"), backend));
    let chat = game.chat_backend.iter().map(|backend| ("chat", "chat_backend".to_owned(), backend));
    let mut backends = BTreeMap::new();
    for (name, written, raw::Backend { host, port }) in named.chain(chat) {
        if !is_name(name) {
            errors.push(format!("{key}.backends: {name:?} is not 1 to 64 characters of A-Z a-z 0-9 _ . -"));
        }
        if *port == 0 {
            errors.push(format!("{key}.{written}.port: a port from 1 to 65535 is required"));
        }
        if backends.insert(name.to_owned(), format!("{host}:{port}")).is_some() {
            errors.push(format!("{key}.{written}: `backends.{name}` is the same backend, remove one of the two"));
        }
    }
    backends
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
    range("state_mb", raw.state_mb as u64, 1, 4096);
    range("max_payload_bytes", raw.max_payload_bytes.unwrap_or(0) as u64, 0, 1 << 30);
    range("log_line_bytes", raw.log_line_bytes as u64, 1, 1 << 20);
    range("log_lines_per_s", u64::from(raw.log_lines_per_s), 1, 1_000_000);
    let routes = raw.routes.as_deref().unwrap_or_default();
    if let Some((_, route)) = routes.iter().enumerate().find(|(i, route)| routes[..*i].contains(route)) {
        errors.push(format!("{key}.routes: {route} is a duplicate"));
    }
}
