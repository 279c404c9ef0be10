//! The admin listener for operators: liveness (`/healthz`), readiness (`/readyz`) and metrics (`/metrics`).

mod probes;

pub(crate) use probes::Probes;

use crate::{
    bus,
    config::Game,
    reload::reports::{Known, Reports},
    routing::gateway::Gateway,
};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};
use tokio::net::TcpListener;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The state that the admin listener reports.
///
/// A request only reads this state. Other tasks do the slow work, such as the probes of the backends.
pub(crate) struct Admin {
    gateway: Arc<Gateway>,
    bus: Arc<bus::Health>,
    files: Arc<Reports>,
    probes: Arc<Probes>,
    stopping: Arc<Stopping>,
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
}

/// Serves the admin listener until the future is dropped.
///
/// # Errors
/// Returns the error of the server, if it fails.
pub(crate) async fn serve(listener: TcpListener, admin: Arc<Admin>) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin);
    axum::serve(listener, router).await
}

async fn ready(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let known = admin.files.get();
    let reasons = admin.reasons(&known);
    let code = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let games: Vec<_> = known.games.iter().map(|game| game_report(game, &admin.probes)).collect();
    let snapshot = admin.gateway.snapshot();
    let quarantined = snapshot.plugins().filter(|plugin| plugin.is_quarantined());
    let quarantined: Vec<_> = quarantined.map(|plugin| plugin.name().to_string()).collect();
    let mut report = json!({
        "ready": reasons.is_empty(),
        "reasons": reasons,
        "plugins": known.plugins,
        "quarantined": quarantined,
        "games": games,
    });
    if let Some(error) = known.directory_error {
        report["directory_error"] = error.into();
    }
    (code, Json(report))
}

/// Returns the entry of a game and its backends for the readiness report.
fn game_report(game: &Game, probes: &Probes) -> Value {
    let backends: BTreeMap<_, _> = game.backends.iter().map(|(name, address)| (name, probes.report(address))).collect();
    // `chat_backend` repeats the entry `chat` of `backends`, because dashboards may read this key.
    let chat = game.backends.get("chat").map(|address| probes.report(address));
    json!({ "id": game.id, "backends": backends, "chat_backend": chat })
}

impl Admin {
    /// Creates the state of the admin listener.
    #[must_use]
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        bus: Arc<bus::Health>,
        files: Arc<Reports>,
        probes: Arc<Probes>,
        stopping: Arc<Stopping>,
    ) -> Self {
        Self { gateway, bus, files, probes, stopping }
    }

    fn reasons(&self, known: &Known) -> Vec<String> {
        let mut reasons = Vec::new();
        reasons.extend(self.stopping.0.get().cloned());
        reasons.extend(self.bus.error().map(|error| format!("the bus is not connected: {error}")));
        reasons.extend(known.reasons());
        let missing = self.gateway.missing();
        reasons.extend(missing.iter().map(|plugin| format!("the plugin {plugin} does not serve (plugins.required)")));
        reasons
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let metrics = &admin.gateway.metrics;
    let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    metrics.sessions.set(gauge(admin.gateway.registry.len()));
    metrics.bus_queued.set(gauge(admin.gateway.waiting_publishes()));
    match metrics.encode() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, OPENMETRICS)], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string()),
    }
}
