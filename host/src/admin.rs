//! The admin listener for operators: the dashboard (`/`) and the playground (`/playground`), liveness (`/healthz`),
//! readiness (`/readyz`), metrics (`/metrics`), and the API (`/api`).

mod about;
mod access;
mod api;
mod pages;
mod probes;
mod state;

pub(crate) use access::Access;
pub(crate) use probes::Probes;
pub(crate) use state::{Admin, Facts, Stopping};

use crate::sync::half_open::HalfOpen;
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
use serde_json::json;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::JoinSet, time};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The maximum number of connections. The oldest one makes room for a new one, because anybody who reaches the listener
/// can open connections and let them wait.
const MAX_CONNECTIONS: u32 = 256;

/// The time that a client has for the head of a request, the wait for a further request included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The time that a request may take from the end of its head to its answer, the wait for its body included. A readiness
/// report and a close that other gateways have to hear take seconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether a request comes from an operator. If not, the answer has no details.
#[derive(Clone, Copy)]
struct FromOperator(bool);

/// Serves the admin listener. Never returns.
pub(crate) async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let gateway = Arc::clone(&admin.gateway);
    let router = Router::new()
        .route("/", get(pages::dashboard))
        .route("/playground", get(pages::playground))
        .route("/pages/{*name}", get(pages::named))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/sessions", get(api::sessions))
        .route("/api/plugins", get(api::plugins))
        .route("/api/gateway", get(api::gateway))
        .route("/api/log", get(api::log))
        .route("/api/sessions/{id}/close", post(api::close_session))
        .route("/api/users/{id}/close", post(api::close_user))
        .fallback(api::no_such_path)
        .method_not_allowed_fallback(api::wrong_method)
        .layer(DefaultBodyLimit::max(api::MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), guard))
        .with_state(admin);
    let mut connections = JoinSet::new();
    let open = Arc::<HalfOpen>::default();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => {
                    let service = router.clone().layer(Extension(ConnectInfo(remote)));
                    let mut place = open.enter(MAX_CONNECTIONS);
                    connections.spawn(async move {
                        let mut http = http1::Builder::new();
                        http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
                        tokio::select! {
                            // An error means that the client broke the connection or the protocol.
                            _ = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)) => {}
                            () = place.evicted() => {}
                        }
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
/// load balancers do. Everybody may read the pages, since they ask for the token themselves.
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
        _ if pages::is_page(path) => Ok(()),
        _ if !is_operator => Err(Denied::Token),
        _ if path.starts_with("/api/") => admin.access.check_page(headers),
        _ => Ok(()),
    };
    let Err(denied) = decided else {
        request.extensions_mut().insert(FromOperator(is_operator));
        return time::timeout(REQUEST_TIMEOUT, next.run(request)).await.unwrap_or_else(|_| api::too_slow());
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
    (code, Json(about::readiness(&admin, known, reasons)))
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let metrics = &admin.gateway.metrics;
    let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    metrics.sessions.set(gauge(admin.gateway.registry.len()));
    let (parked, parked_bytes) = admin.gateway.registry.parking.usage();
    metrics.resume.parked.set(gauge(parked));
    metrics.resume.parked_bytes.set(gauge(parked_bytes));
    let waiting = admin.gateway.waiting_publishes();
    metrics.bus_queued.set(gauge(waiting.publishes));
    metrics.bus_queued_bytes.set(gauge(waiting.bytes));
    match metrics.encode() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, OPENMETRICS)], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string()),
    }
}
