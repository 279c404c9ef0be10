//! What the admin listener knows.

use super::{access::Access, probes::Probes};
use crate::{
    auth::Authenticator,
    bus,
    reload::reports::{Known, Reports},
    routing::gateway::Gateway,
};
use std::sync::{Arc, OnceLock};

/// The state that the admin listener reports.
///
/// A request only reads this state. Other tasks do the slow work, such as the probes of the backends.
pub(crate) struct Admin {
    pub(super) gateway: Arc<Gateway>,
    pub(super) auth: Arc<Authenticator>,
    pub(super) bus: Arc<bus::Health>,
    pub(super) files: Arc<Reports>,
    pub(super) probes: Arc<Probes>,
    pub(super) stopping: Arc<Stopping>,
    pub(super) access: Access,
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
    /// Creates the state of the admin listener.
    #[must_use]
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        auth: Arc<Authenticator>,
        bus: Arc<bus::Health>,
        files: Arc<Reports>,
        probes: Arc<Probes>,
        stopping: Arc<Stopping>,
        token: Option<String>,
    ) -> Self {
        Self { gateway, auth, bus, files, probes, stopping, access: Access::new(token) }
    }

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
