//! The parts put together: from a configuration to a gateway that serves until it is told to stop.

use crate::{
    admin::{self, Admin},
    bus,
    config::Config,
    net::auth::Verifier,
    net::server,
    plugin::Compiler,
    reload::catalog::{Catalog, Report},
    reload::reloader::{self, Reports},
    routing::gateway::Gateway,
    telemetry::metrics::Metrics,
};
use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time,
};
use tokio_util::sync::CancellationToken;

/// How long the bus may take to carry what is queued when the gateway stops.
const BUS_DRAIN: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// What keeps it from starting, such as a port that is taken.
pub async fn run(path: &Path, config: Config) -> anyhow::Result<()> {
    raise_open_files();
    refuse_huge_pages();
    let metrics = Arc::new(Metrics::new());
    let queue = Arc::<bus::Queue<_>>::default();
    let gateway = Arc::new(Gateway::new(Arc::clone(&metrics), Arc::clone(&queue), config.server.max_message_bytes));

    let plugins = Arc::new(Reports::default());
    let catalog = Catalog::new(compiler()?, Arc::clone(&metrics));
    let reloading = reloader::start(path, config.clone(), catalog, Arc::clone(&gateway), Arc::clone(&plugins))?;

    let health = Arc::new(bus::Health::new(Arc::clone(&metrics)));
    let bus_stop = CancellationToken::new();
    let (redis, topics, handler) = (config.redis.clone(), gateway.topics(), Arc::clone(&gateway));
    let bus = tokio::spawn(bus::run(redis, queue, topics, handler, Arc::clone(&health), bus_stop.clone()));

    let telling = tokio::spawn(tell_suppressed(Arc::clone(&metrics)));
    let stop = CancellationToken::new();
    let listener = bind("server.host and server.port", config.server.listen).await?;
    let admin_listener = bind("admin.listen", config.admin).await?;
    let admin = Arc::new(Admin::new(Arc::clone(&gateway), health, plugins, stop.clone()));
    let admin = tokio::spawn(admin::serve(admin_listener, admin));

    let verifier = config.auth.as_ref().map(|auth| Arc::new(Verifier::new(auth)));
    let serving = server::serve(listener, Arc::clone(&gateway), Arc::new(config), verifier, stop.clone());
    let serving = tokio::spawn(serving);
    tracing::info!(plugins = %gateway.snapshot(), "serving");

    stopped().await?;
    stop.cancel();
    serving.await?;
    bus_stop.cancel();
    if time::timeout(BUS_DRAIN, bus).await.is_err() {
        tracing::warn!("the bus did not take what was queued in time");
    }
    admin.abort();
    telling.abort();
    metrics.log_limits.tell_suppressed();
    tokio::task::spawn_blocking(|| drop(reloading)).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Raises the soft limit of open files to the hard one. The soft one is for programs that cannot count beyond 1024.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "cannot raise the limit of open files: each connection needs one (ulimit -n)");
    }
}

/// Takes memory in small pages: with huge ones the allocator's arenas hold twice as much at rest, and give less of it back.
fn refuse_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "cannot turn transparent huge pages off: more memory is held at rest");
    }
}

/// Tells every second how many log lines were suppressed.
async fn tell_suppressed(metrics: Arc<Metrics>) {
    let mut interval = time::interval(Duration::from_secs(1));
    loop {
        interval.tick().await;
        metrics.log_limits.tell_suppressed();
    }
}

fn compiler() -> anyhow::Result<Compiler> {
    Compiler::new().map_err(|error| anyhow::anyhow!("this machine cannot run WebAssembly: {error:#}"))
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
    let mut catalog = Catalog::new(compiler()?, Arc::default());
    catalog.load_all(&config.directory, config);
    catalog.assemble();
    Ok(catalog.report())
}
