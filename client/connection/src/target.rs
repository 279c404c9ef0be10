use std::path::PathBuf;

use crate::endpoint::Endpoint;

/// The gateway to connect to, and the credentials.
#[derive(clap::Args, Clone, Debug)]
pub struct Target {
    /// The gateway's WebSocket URL, ws:// or wss://
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:8080/ws")]
    pub url: Endpoint,
    /// The token, which is sent as `Authorization: Bearer TOKEN`
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// The certificates to trust with wss://, as PEM, instead of those that the system trusts
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}
