//! The parts put together: from a configuration to a gateway that serves until it is told to stop.

use crate::{
    admin::{self, Admin},
    bus,
    config::Config,
    net::auth::Verifier,
    net::server,
    reload::{
        catalog::Report,
        reloader::{self, Reloading},
        reports::Reports,
    },
    routing::gateway::Gateway,
    telemetry::metrics::Metrics,
};
use anyhow::Context;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time,
};
use tokio_util::sync::CancellationToken;

/// How long the bus may take to carry what is queued when the gateway stops.
const BUS_DRAIN: Duration = Duration::from_secs(5);

/// How long the thread that follows files may take to end. It has nothing to finish.
const RELOAD_STOP: Duration = Duration::from_secs(1);

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// What keeps it from starting, such as a port that is taken.
pub async fn run(path: &Path, config: Config) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::new());
    let queue = Arc::<bus::Queue<_>>::default();
    let gateway = Arc::new(Gateway::new(Arc::clone(&metrics), Arc::clone(&queue), config.server.max_message_bytes));

    let health = Arc::new(bus::Health::new(Arc::clone(&metrics)));
    let bus_stop = CancellationToken::new();
    let (redis, topics, handler) = (config.redis.clone(), gateway.topics(), Arc::clone(&gateway));
    let bus = tokio::spawn(bus::run(redis, queue, topics, handler, Arc::clone(&health), bus_stop.clone()));

    let telling = tokio::spawn(tell_suppressed(Arc::clone(&metrics)));
    let stop = CancellationToken::new();
    let plugins = Arc::new(Reports::default());
    let listener = bind("server.host and server.port", config.server.listen).await?;
    let admin_listener = bind("admin.listen", config.admin).await?;
    let admin = Arc::new(Admin::new(Arc::clone(&gateway), health, Arc::clone(&plugins), stop.clone()));
    let admin = tokio::spawn(admin::serve(admin_listener, admin));

    let reloading = reloader::start(path, config.clone(), Arc::clone(&gateway), plugins)?;
    let verifier = config.auth.as_ref().map(|auth| Arc::new(Verifier::new(auth)));
    let serving = server::serve(listener, Arc::clone(&gateway), Arc::new(config), verifier, stop.clone());
    let serving = tokio::spawn(serving);

    stopped_after(tell_when_loaded(&reloading, &gateway)).await?;
    reloading.stop();
    stop.cancel();
    serving.await?;
    bus_stop.cancel();
    if time::timeout(BUS_DRAIN, bus).await.is_err() {
        tracing::warn!("the bus did not take what was queued in time");
    }
    admin.abort();
    telling.abort();
    metrics.log_limits.tell_suppressed();
    if time::timeout(RELOAD_STOP, reloading.ended()).await.is_err() {
        tracing::warn!("the thread that follows files did not end in time: the process ends without it");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Tells every second how many log lines were suppressed.
async fn tell_suppressed(metrics: Arc<Metrics>) {
    let mut interval = time::interval(Duration::from_secs(1));
    loop {
        interval.tick().await;
        metrics.log_limits.tell_suppressed();
    }
}

/// Tells that the gateway serves, once it is known of each plugin file what it comes to.
async fn tell_when_loaded(reloading: &Reloading, gateway: &Gateway) {
    reloading.loaded().await;
    tracing::info!(plugins = %gateway.snapshot(), "serving");
}

/// Resolves at SIGTERM or SIGINT. Meanwhile it drives `beside`.
async fn stopped_after(beside: impl Future<Output = ()>) -> std::io::Result<()> {
    let mut stopped = std::pin::pin!(stopped());
    tokio::select! {
        outcome = &mut stopped => return outcome,
        () = beside => {}
    }
    stopped.await
}

async fn bind(key: &str, address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} ({key})"))?;
    tracing::info!(address = %listener.local_addr()?, "listening ({key})");
    Ok(listener)
}

async fn stopped() -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Loads every plugin once and answers with what became of each file.
///
/// # Errors
/// Where the machine cannot run WebAssembly.
pub fn check(config: &Config) -> anyhow::Result<Vec<Report>> {
    reloader::load_once(config)
}
