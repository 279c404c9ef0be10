//! The operator's side: is the process alive, is it ready, and what has it counted.

use crate::{
    bus,
    config::Game,
    reload::reloader::{Known, Reports},
    routing::gateway::Gateway,
};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time,
};
use tokio_util::sync::CancellationToken;

/// How long a backend may take to accept a connection.
const PROBE: Duration = Duration::from_secs(1);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the operator may ask about.
pub struct Admin {
    gateway: Arc<Gateway>,
    bus: Arc<bus::Health>,
    files: Arc<Reports>,
    draining: CancellationToken,
}

/// Serves the admin listener.
///
/// # Errors
/// Those of the listener.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) -> std::io::Result<()> {
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
    let mut games = Vec::new();
    for game in &known.games {
        games.push(json!({ "id": game.id, "chat_backend": backend(game).await }));
    }
    let snapshot = admin.gateway.snapshot();
    let quarantined = snapshot.plugins().filter(|plugin| plugin.is_quarantined());
    let quarantined: Vec<_> = quarantined.map(|plugin| plugin.name().to_string()).collect();
    let report = json!({
        "ready": reasons.is_empty(),
        "reasons": reasons,
        "plugins": known.plugins,
        "quarantined": quarantined,
        "games": games,
    });
    (code, Json(report))
}

impl Admin {
    /// What there is to ask about. `draining` is set once the gateway stops.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, bus: Arc<bus::Health>, files: Arc<Reports>, draining: CancellationToken) -> Self {
        Self { gateway, bus, files, draining }
    }

    fn reasons(&self, known: &Known) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.draining.is_cancelled() {
            reasons.push("the gateway stops".to_owned());
        }
        reasons.extend(self.bus.error().map(|error| format!("the bus is not connected: {error}")));
        if known.plugins.is_empty() {
            reasons.push("the plugins directory holds no .wasm file".to_owned());
        }
        if !known.loaded {
            let failed =
                known.plugins.iter().filter_map(|file| Some(format!("{}: {}", file.file, file.error.as_ref()?)));
            reasons.extend(failed);
        }
        reasons
    }
}

async fn backend(game: &Game) -> serde_json::Value {
    let Some(address) = &game.chat_backend else { return serde_json::Value::Null };
    let outcome = match time::timeout(PROBE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {PROBE:?}")),
    };
    json!({ "address": address, "reachable": outcome.is_ok(), "error": outcome.err() })
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
