use crate::endpoint::Endpoint;

/// The gateway to connect to, and the credentials.
#[derive(clap::Args, Clone, Debug)]
pub struct Target {
    /// The gateway's WebSocket URL
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:8080/ws")]
    pub url: Endpoint,
    /// The token, which is sent as `Authorization: Bearer TOKEN`
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
}
