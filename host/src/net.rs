//! The network side: the listener, the HTTP upgrade, authentication, the WebSocket and the task of each session.
//!
//! It may use `delivery` and `routing`. It does not know plugins or the bus, and nothing outside this folder knows sockets.

pub mod auth;
pub mod budget;
pub mod handshake;
pub mod receiver;
pub mod server;
pub mod session;
pub mod socket;
pub mod violation;
pub mod wire;
