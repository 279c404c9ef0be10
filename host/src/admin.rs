//! The admin listener for operators: liveness (`/healthz`), readiness (`/readyz`), metrics (`/metrics`), and the API
//! (`/api`).

mod access;
mod api;
mod probes;
mod state;

pub(crate) use probes::Probes;
pub(crate) use state::{Admin, Stopping};

use crate::config::Game;
use access::Denied;
use axum::{
    Extension, Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::JoinSet, time};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The maximum number of connections. Further ones wait until one of these ends.
const MAX_CONNECTIONS: usize = 256;

/// The time that a client has for the head of a request, the wait for a further request included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether a request comes from an operator. If not, the answer has no details.
#[derive(Clone, Copy)]
struct FromOperator(bool);

/// Serves the admin listener. Never returns.
pub(crate) async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let gateway = Arc::clone(&admin.gateway);
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/sessions", get(api::sessions))
        .route("/api/plugins", get(api::plugins))
        .route("/api/sessions/{id}/close", post(api::close_session))
        .route("/api/users/{id}/close", post(api::close_user))
        .fallback(api::no_such_path)
        .method_not_allowed_fallback(api::wrong_method)
        .layer(DefaultBodyLimit::max(api::MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), guard))
        .with_state(admin);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, remote)) => {
                    let service = router.clone().layer(Extension(ConnectInfo(remote)));
                    connections.spawn(async move {
                        let mut http = http1::Builder::new();
                        http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
                        // An error means that the client broke the connection or the protocol.
                        let _ = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).await;
                    });
                }
                Err(error) => {
                    if gateway.metrics.log_limits.permit("admin connection not accepted", "") {
                        tracing::error!(%error, "cannot accept admin connections, trying again");
                    }
                    time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Serves a request if `access` allows it. Everybody may ask whether the process lives and whether it is ready, since
/// load balancers do.
async fn guard(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let (path, headers) = (request.uri().path(), request.headers());
    let is_operator = admin.access.admits(headers);
    let decided = match path {
        "/healthz" | "/readyz" => Ok(()),
        _ if !is_operator => Err(Denied::Token),
        _ if path.starts_with("/api/") => admin.access.check_page(headers),
        _ => Ok(()),
    };
    let Err(denied) = decided else {
        request.extensions_mut().insert(FromOperator(is_operator));
        return next.run(request).await;
    };
    let (status, why) = denied.answer();
    if admin.gateway.metrics.log_limits.permit("admin request refused", why) {
        tracing::warn!(%remote, status = status.as_u16(), why, "admin request refused");
    }
    let mut response = api::error(status, why);
    if denied == Denied::Token {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

async fn ready(
    State(admin): State<Arc<Admin>>,
    Extension(FromOperator(is_operator)): Extension<FromOperator>,
) -> impl IntoResponse {
    let known = admin.files.get();
    let reasons = admin.reasons(&known);
    let code = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if !is_operator {
        return (code, Json(json!({ "ready": reasons.is_empty() })));
    }
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
    if admin.auth.is_on() {
        report["auth"] = json!({ "keys": admin.auth.sources() });
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

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let metrics = &admin.gateway.metrics;
    let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    metrics.sessions.set(gauge(admin.gateway.registry.len()));
    let (parked, parked_bytes) = admin.gateway.registry.parking.usage();
    metrics.resume.parked.set(gauge(parked));
    metrics.resume.parked_bytes.set(gauge(parked_bytes));
    metrics.bus_queued.set(gauge(admin.gateway.waiting_publishes()));
    match metrics.encode() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, OPENMETRICS)], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string()),
    }
}
