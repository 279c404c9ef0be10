//! Tests of TLS on the listener: sessions, clients of other languages, handshakes that fail, certificates that change,
//! and bad certificates at the start.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "tls/clients.rs"]
mod clients;
#[path = "tls/handshake.rs"]
mod handshake;
#[path = "tls/renewal.rs"]
mod renewal;
#[path = "tls/sessions.rs"]
mod sessions;
#[path = "tls/start.rs"]
mod start;

use gateway_tests::{Certificates, Gateway, Setup};
use std::path::Path;

/// Returns the keys of `server` for this certificate and key.
fn keys(cert: &Path, key: &Path) -> String {
    format!("tls: {{ cert: {cert:?}, key: {key:?} }}")
}

/// Starts a gateway that speaks TLS with a new certificate, and with more keys of `server`.
async fn start(more: &str) -> (Gateway, Certificates) {
    let certificates = Certificates::generate().await;
    let keys = keys(&certificates.server(), &certificates.server_key());
    (Gateway::start(Setup::server(&format!("{keys}{more}"))).await, certificates)
}
