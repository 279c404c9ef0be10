//! What the admin listener knows.

use super::{access::Access, probes::Probes};
use crate::{
    auth::Authenticator,
    bus,
    config::Config,
    reload::reports::{Known, Reports},
    routing::gateway::Gateway,
    telemetry::recent_log::RecentLog,
};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

/// The state that the admin listener reports.
///
/// A request only reads this state. Other tasks do the slow work, such as the probes of the backends.
pub(crate) struct Admin {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) auth: Arc<Authenticator>,
    pub(crate) bus: Arc<bus::Health>,
    pub(crate) files: Arc<Reports>,
    pub(crate) probes: Arc<Probes>,
    pub(crate) stopping: Arc<Stopping>,
    pub(crate) log: RecentLog,
    pub(crate) facts: Facts,
    pub(crate) access: Access,
}

/// What does not change while the gateway runs.
pub(crate) struct Facts {
    /// When the gateway was started, in milliseconds since 1970.
    pub(super) started_at_ms: u64,
    /// The listener for clients, as operators see it.
    pub(super) websocket: Value,
    /// The kind of the bus, and where it is.
    pub(super) bus: (&'static str, Option<String>),
    pub(super) resume_window_ms: Option<u128>,
}

impl Facts {
    /// Returns the facts about a gateway with this configuration. `listener` is the address for clients.
    pub(crate) fn new(config: &Config, listener: SocketAddr, started_at_ms: u64) -> Self {
        let redis = config.redis.as_ref();
        let kind = redis.map_or("embedded", |redis| if redis.place.is_cluster() { "redis cluster" } else { "redis" });
        Self {
            started_at_ms,
            websocket: json!({ "address": listener, "path": "/ws", "tls": config.server.tls.is_some() }),
            bus: (kind, redis.map(|redis| redis.place.to_string())),
            resume_window_ms: config.resume.map(|resume| resume.window.as_millis()),
        }
    }
}

/// The reason why the gateway is stopping, if it is stopping.
#[derive(Debug, Default)]
pub(crate) struct Stopping(OnceLock<String>);

impl Stopping {
    /// Records that the gateway is stopping. Only the first reason is kept.
    pub(crate) fn set(&self, reason: String) {
        // `set` fails if a reason is already recorded.
        let _ = self.0.set(reason);
    }

    /// Returns the reason, if the gateway is stopping.
    pub(crate) fn why(&self) -> Option<&String> {
        self.0.get()
    }
}

impl Admin {
    /// Returns why the gateway is not ready.
    pub(super) fn reasons(&self, known: &Known) -> Vec<String> {
        let mut reasons = Vec::new();
        reasons.extend(self.stopping.why().cloned());
        reasons.extend(self.bus.error().map(|error| format!("the bus is not connected: {error}")));
        reasons.extend(known.reasons());
        reasons.extend(self.auth.why_unavailable());
        let missing = self.gateway.missing();
        reasons.extend(missing.iter().map(|plugin| format!("the plugin {plugin} does not serve (plugins.required)")));
        reasons
    }
}
