//! A WebSocket gateway for online games whose policy is WebAssembly that is swapped while the players stay connected.
//!
//! The two ways a message travels, which is also the order to read the modules in:
//!
//! ```text
//! up:    net (socket -> handshake -> session) -> packet -> routing -> plugin -> actions -> bus
//! down:  bus -> routing -> plugin -> actions -> delivery (registry -> outbox) -> net (session -> socket)
//! ```
//!
//! The host knows connections, sessions, the packet header and the bus, and no game: what a packet means is a plugin's business.

pub mod net;

pub mod routing;

pub mod plugin;

pub mod delivery;

pub mod bus;

pub mod reload;

pub mod admin;
pub mod config;
pub mod file;
pub mod sync;
pub mod telemetry;

pub mod app;
pub mod author;
