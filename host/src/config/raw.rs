//! The file gateway.yaml as it is written. Only the types of the values are checked here.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

macro_rules! section {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty = $default:expr,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
        #[serde(default, expecting = "a section")]
        pub(super) struct $name { $($(#[$attribute])* pub(super) $field: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    )*};
}

section! {
    File {
        server: Server = Server::default(),
        admin: Admin = Admin::default(),
        auth: Option<Auth> = None,
        limits: Limits = Limits::default(),
        resume: Option<Resume> = None,
        traces: Option<Traces> = None,
        redis: Option<Redis> = None,
        games: Vec<Game> = Vec::new(),
        plugins: Plugins = Plugins::default(),
    }

    Server {
        host: String = "0.0.0.0".to_owned(),
        port: u16 = 8080,
        read_buffer_bytes: usize = 8192,
        write_buffer_bytes: usize = 8192,
        send_queue: usize = 1024,
        send_queue_bytes: usize = 16 << 20,
        send_timeout_s: u64 = 120,
        max_message_bytes: usize = 16 << 20,
        receive_budget_bytes: usize = 256 << 20,
        control_frames_per_s: u32 = 100,
        on_full_queue: OnFullQueue = OnFullQueue::Drop,
        handshake_timeout_s: u64 = 10,
        ping_interval_s: u64 = 25,
        idle_timeout_s: u64 = 60,
        drain_timeout_s: u64 = 10,
        plugin_headers: Vec<String> = Vec::new(),
        allowed_origins: Option<Vec<String>> = None,
        subprotocols: Vec<String> = Vec::new(),
        trusted_proxies: Vec<String> = Vec::new(),
        proxy_protocol: bool = false,
        #[serde(skip_serializing_if = "Option::is_none")]
        tls: Option<Tls> = None,
        #[serde(skip_serializing_if = "Option::is_none")]
        reconnect: Option<Reconnect> = None,
    }

    Reconnect {
        url: String = String::new(),
        rate_per_s: u32 = 500,
    }

    Tls {
        cert: String = String::new(),
        key: String = String::new(),
    }

    Admin {
        listen: String = "127.0.0.1:8081".to_owned(),
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<String> = None,
        #[serde(skip_serializing_if = "Option::is_none")]
        token_file: Option<String> = None,
    }

    Auth {
        required: bool = true,
        jwt_secret: Option<String> = None,
        jwt_secret_file: Option<String> = None,
        jwks_file: Option<String> = None,
        jwks_url: Option<String> = None,
        issuer: Option<String> = None,
        audience: Audience = Audience::Many(Vec::new()),
        leeway_s: u64 = 5,
        user_claim: String = "sub".to_owned(),
        on_expiry: OnExpiry = OnExpiry::Close,
    }

    Limits {
        sessions: Option<u32> = None,
        sessions_per_ip: Option<u32> = None,
        handshakes_per_s_per_ip: Option<u32> = None,
        new_sessions_per_s: Option<u32> = None,
        handshakes: Option<u32> = None,
        sessions_per_user: Option<u32> = None,
        on_user_limit: OnUserLimit = OnUserLimit::CloseOldest,
        packets_per_s: Option<u32> = None,
        bytes_per_s: Option<u32> = None,
    }

    Resume {
        window_s: u64 = 30,
        messages: u32 = 256,
        bytes: u32 = 65_536,
        total_bytes: u64 = 256 << 20,
    }

    Traces {
        endpoint: String = String::new(),
        sample_ratio: f64 = 0.01,
        max_per_s: u32 = 100,
        service_name: String = "gateway".to_owned(),
        #[serde(skip_serializing_if = "Option::is_none")]
        headers: Option<String> = None,
        #[serde(skip_serializing_if = "Option::is_none")]
        headers_file: Option<String> = None,
    }

    Redis {
        #[serde(skip_serializing_if = "Option::is_none")]
        addr: Option<String> = None,
        #[serde(skip_serializing_if = "Option::is_none")]
        sentinel: Option<Sentinel> = None,
        #[serde(skip_serializing_if = "Option::is_none")]
        cluster: Option<Cluster> = None,
        username: String = String::new(),
        password: String = String::new(),
        #[serde(skip_serializing_if = "Option::is_none")]
        password_file: Option<String> = None,
        timeout_ms: u64 = 2000,
        probe_interval_ms: u64 = 1000,
        streams: Vec<String> = Vec::new(),
        stream_max_len: u64 = 100_000,
        stream_replicas: u64 = 0,
    }

    Sentinel {
        master: String = String::new(),
        addrs: Vec<String> = Vec::new(),
        username: String = String::new(),
        password: String = String::new(),
        #[serde(skip_serializing_if = "Option::is_none")]
        password_file: Option<String> = None,
    }

    Cluster {
        addrs: Vec<String> = Vec::new(),
    }

    Game {
        id: String = String::new(),
        backends: BTreeMap<String, Backend> = BTreeMap::new(),
        #[serde(skip_serializing_if = "Option::is_none")]
        chat_backend: Option<Backend> = None,
    }

    Backend {
        host: String = "localhost".to_owned(),
        port: u16 = 0,
    }

    Plugins {
        directory: String = "plugins/dist".to_owned(),
        required: Vec<String> = Vec::new(),
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_directory: Option<String> = None,
        #[serde(skip_serializing_if = "Option::is_none")]
        state_file: Option<String> = None,
        compile_cpu_s: u64 = 60,
        compile_memory_mb: u64 = 2048,
        settings: BTreeMap<String, PluginSettings> = BTreeMap::new(),
    }

    PluginSettings {
        routes: Option<Vec<u8>> = None,
        call_timeout_ms: u64 = 20,
        memory_mb: usize = 64,
        table_elements: usize = 1_000_000,
        handles: usize = 10_000,
        result_mb: usize = 32,
        actions: usize = 1024,
        pushes: usize = 65_536,
        state_mb: usize = 64,
        max_payload_bytes: Option<usize> = None,
        log_line_bytes: usize = 4096,
        log_lines_per_s: u32 = 100,
        config: serde_json::Map<String, serde_json::Value> = serde_json::Map::new(),
    }
}

/// The action when the send queue of a session is full.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnFullQueue {
    Drop,
    Close,
}

/// The action when a user begins one session too many.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnUserLimit {
    CloseOldest,
    Refuse,
}

/// The audiences of tokens: one text or a list.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(untagged, expecting = "`audience` is neither a text nor a list of texts")]
pub(super) enum Audience {
    One(String),
    Many(Vec<String>),
}

/// The action when the token of a session expires.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnExpiry {
    Close,
    Ignore,
}
