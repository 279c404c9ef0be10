//! A WebSocket gateway for online games. Its policy is WebAssembly plugins, which are swapped while players stay
//! connected.
//!
//! The host knows connections, sessions, the packet header and the bus. It knows no game: plugins decide what a packet
//! means.
//!
//! A message travels in one of two directions:
//!
//! ```text
//! up:    net (handshake -> socket -> session) -> routing -> plugin -> routing (actions) -> bus
//! down:  bus -> routing -> plugin -> routing (actions) -> delivery (registry -> outbox) -> net (session -> socket)
//! ```
//!
//! The crate `gateway_wire` parses and writes packets, WebSocket frames and the Redis protocol. This crate has these
//! modules, in reading order:
//!
//! - `net` accepts connections and runs a task for each session.
//! - `auth` checks the tokens of clients and loads the keys for that.
//! - `routing` finds the plugin for a packet or a bus message and carries out the plugin's actions.
//! - `plugin` calls plugins, with limits on all that a call may take.
//! - `delivery` holds the live sessions and their send queues.
//! - `bus` publishes and subscribes, through Redis or inside the process.
//! - `reload` follows the plugin files and gateway.yaml, and swaps plugins.
//! - `admin` serves health and metrics over HTTP.
//! - `config` reads and checks gateway.yaml.
//! - `app` starts all parts of the process and drains them at its end.
//! - `finding` is what `gateway check` finds wrong.
//! - `traces` records OpenTelemetry traces and sends them to a collector.
//! - `file`, `memory`, `telemetry`, `http_client`, `tls_client` and `sync` are tools of the other modules.

pub mod net;

pub mod auth;

pub mod routing;

pub mod plugin;

pub mod delivery;

pub mod bus;

pub mod reload;

mod admin;

pub mod config;

pub mod app;

pub mod file;

pub mod finding;

pub mod memory;

pub mod traces;

pub mod telemetry;

mod http_client;

mod tls_client;

pub mod sync;
