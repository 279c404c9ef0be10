//! The network side: the listener, TLS, the HTTP upgrade, the WebSocket protocol, and the task of each session.
//!
//! A session's task reads packets from its socket, passes them to `routing`, and writes the packets of its outbox.
//! Modules of this folder may use `auth`, `config`, `delivery`, `file`, `routing`, `sync`, `telemetry` and
//! `traces`. They do not know `plugin`, `bus` or `reload`. No module outside this folder knows the socket of a client.

pub mod admission;
mod beginning;
pub mod budget;
pub mod certificate;
mod closing;
pub mod credentials;
mod drain;
mod end;
mod expiry;
pub mod forwarded;
pub mod handshake;
pub mod handshake_rate;
pub mod head;
pub mod meter;
mod opening;
pub mod origin;
pub mod proxy_header;
pub mod receiver;
pub mod resume;
pub mod resume_token;
pub mod server;
pub mod session;
mod shared;
pub mod socket;
pub mod stream;
pub mod subprotocol;
pub mod tcp;
pub mod tls;
pub mod tls_stream;
mod traced;
pub mod violation;
pub mod wire;
