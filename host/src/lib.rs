//! A WebSocket gateway for online games whose policy is WebAssembly that is swapped while the players stay connected.
//!
//! The two ways a message travels, which is also the order to read the modules in:
//!
//! ```text
//! up:    socket -> handshake -> session -> packet -> gateway -> snapshot -> plugin -> actions -> bus
//! down:  bus -> gateway -> snapshot -> plugin -> actions -> registry -> outbox -> session -> socket
//! ```
//!
//! The host knows connections, sessions, the packet header and the bus, and no game: what a packet means is a plugin's business.

pub mod server;

pub mod auth;
pub mod handshake;
pub mod session;
pub mod socket;
pub mod wire;

pub mod outbox;
pub mod packet;
pub mod registry;

pub mod gateway;
pub mod plugin;
pub mod snapshot;

pub mod bus;

pub mod catalog;
pub mod reload;
pub mod watched;

pub mod admin;
pub mod config;
pub mod metrics;
pub mod sharded;
pub mod throttle;
pub mod uptime;
pub mod wakeup;

pub mod app;
pub mod author;
