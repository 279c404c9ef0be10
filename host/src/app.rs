//! The application: starts all parts of the process, watches them, and drains them in order at the end.
//!
//! `supervisor` owns the parts, `certificate` is one of them, and `signals` enforces the end of the process.
//!
//! This folder may use every other module, and only this folder connects them. It knows when each part has to end. It
//! does not know what a packet, a bus message or a plugin means. No other module uses this folder.

mod certificate;
mod checkup;
mod saved;
mod signals;
mod supervisor;

use crate::{
    admin::{self, Access, Admin, Facts, Probes, Stopping},
    auth::Authenticator,
    bus,
    config::{Config, ConfigError},
    net::certificate::Invalid,
    net::server,
    reload::{
        reloader::{self, End, Reloading},
        reports::Reports,
        watched::Stamp,
    },
    routing::gateway::Gateway,
    sync::uptime::unix_ms,
    telemetry::{metrics::Metrics, recent_log::RecentLog},
    traces::{self, Tracer},
};
use anyhow::Context;
use certificate::Followed;
pub use checkup::{check, check_certificate, check_keys, check_state, examine};
use futures_util::FutureExt;
use std::{
    future, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use supervisor::Supervisor;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    time,
};
use tokio_util::sync::CancellationToken;

/// The time that a part may take to end, in addition to the time of its drain.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// The time that the reload thread may take to end. The thread has no work to finish.
const FILES_STOP: Duration = Duration::from_secs(1);

/// The time that writing the state of the plugins may take.
const SAVE_TIMEOUT: Duration = Duration::from_secs(10);

const LISTENER: &str = "the listener";
const BUS: &str = "the bus";
const TIMERS: &str = "the timers of plugins";
const TRACES: &str = "the exporter of traces";
const RELOAD: &str = "the thread that follows the files";

/// Serves with the configuration at `path` until SIGTERM or SIGINT, and then drains. `recent` is what operators see of
/// the log.
///
/// # Errors
/// Returns a [`ConfigError`] if the configuration is wrong. Returns another error if the gateway cannot start, for
/// example because a port is in use, or if one of its parts ends unexpectedly.
pub async fn run(path: &Path, recent: RecentLog) -> anyhow::Result<()> {
    // Signals come first: until they are handled, SIGHUP ends the process, and process 1 of a container ignores SIGTERM.
    let stop = CancellationToken::new();
    let deadline = signals::listen(stop.clone()).context("cannot listen to signals")?;
    let hangups = signal(SignalKind::hangup()).context("cannot listen to signals")?;
    let (config, stamps) = reloader::read(path)?;
    checkup::raise_open_files();
    let save = if config.state_file.is_some() { SAVE_TIMEOUT } else { Duration::ZERO };
    let bound = config.server.drain_timeout + bus::DRAIN + FILES_STOP + save + traces::FLUSH + 6 * STOP_MARGIN;
    deadline.set(bound);
    let mut running = Running::start(path, (config, stamps), recent, hangups, &stop).await?;
    running.until_stop(&stop).await;
    running.drain().await
}

/// A running gateway.
struct Running {
    supervisor: Supervisor,
    stopping: Arc<Stopping>,
    bus_stop: CancellationToken,
    traces_stop: CancellationToken,
    metrics: Arc<Metrics>,
    drain_timeout: Duration,
    /// The file that the state of the plugins is written to at the end.
    state_file: Option<PathBuf>,
    gateway: Arc<Gateway>,
}

impl Running {
    async fn start(
        path: &Path,
        (config, stamps): (Config, Vec<Stamp>),
        recent: RecentLog,
        hangups: Signal,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::new());
        let certificate = load_certificate(path, &config, &metrics)?;
        let address = config.server.listen;
        let listener = listening("server.host and server.port", address, server::listen(address))?;
        let address = config.admin.listen;
        let admin_listener = listening("admin.listen", address, TcpListener::bind(address).await)?;
        let mut supervisor = Supervisor::default();
        let (stopping, bus_stop) = (Arc::<Stopping>::default(), CancellationToken::new());
        // The parts that get this token have to run until the process ends.
        let never = CancellationToken::new();
        supervisor.start("the limit on log lines", &never, log_suppressed(Arc::clone(&metrics)));

        let queue = Arc::<bus::Queue<_>>::default();
        let gateway = Arc::new(Gateway::new(Arc::clone(&metrics), Arc::clone(&queue), config.server.max_message_bytes));
        let traces_stop = CancellationToken::new();
        if let Some(settings) = &config.traces {
            let bus = if config.redis.is_some() { "redis" } else { "embedded" };
            let (tracer, exporter) = Tracer::new(settings.clone(), bus, &metrics);
            gateway.traces.enable(tracer);
            supervisor.start(TRACES, &traces_stop, exporter.run(traces_stop.clone()).map(Ok));
        }
        if let (Some(resume), Some(redis)) = (&config.resume, &config.redis) {
            // In a Cluster, no message has a place in one order with those of all topics.
            let is_ordered = !redis.place.is_cluster();
            let keys = bus::Keys::new(redis.clone());
            gateway.enable_handovers(Arc::clone(&config.server.outbox), is_ordered, keys, resume.window);
        }
        if let Some(warning) = checkup::too_few_files(&config) {
            tracing::warn!("{warning}");
        }
        if let Some(path) = &config.state_file {
            let state = saved::load(path)?;
            // A file that cannot be written is an error now, and not at the end, when the state would be lost.
            saved::save(path, &state)?;
            gateway.accounts.restore(state);
        }
        let auth = Arc::new(Authenticator::new(Arc::clone(&metrics)));
        apply(&config, &gateway, &auth);
        supervisor.start("the keys of tokens", &never, keys(Arc::clone(&auth)));
        let health = Arc::new(bus::Health::new(Arc::clone(&metrics)));
        let (redis, topics, handler) = (config.redis.clone(), gateway.topics(), Arc::clone(&gateway));
        let bus = bus::run(redis, queue, topics, handler, Arc::clone(&health), bus_stop.clone());
        supervisor.start(BUS, &bus_stop, bus.map(Ok));

        supervisor.start(TIMERS, &bus_stop, timers(Arc::clone(&gateway), bus_stop.clone()));
        supervisor.start("the removal of expired state", &never, remove_expired(Arc::clone(&gateway)));

        let (reports, probes) = (Arc::<Reports>::default(), Arc::<Probes>::default());
        let probing = Arc::clone(&probes).run(Arc::clone(&reports));
        supervisor.start("the probes of backends", &never, probing.map(Ok));
        let pages = pages(admin_listener.local_addr()?);
        let admin = Admin {
            gateway: Arc::clone(&gateway),
            auth: Arc::clone(&auth),
            bus: health,
            files: Arc::clone(&reports),
            probes,
            stopping: Arc::clone(&stopping),
            log: recent,
            facts: Facts::new(&config, listener.local_addr()?, unix_ms()),
            access: Access::new(config.admin.token.clone()),
        };
        let serving = admin::serve(admin_listener, Arc::new(admin));
        supervisor.start("the admin listener", &never, serving.map(Ok));

        let reloaded = (Arc::clone(&gateway), Arc::clone(&auth));
        let apply = Box::new(move |config: &Config| apply(config, &reloaded.0, &reloaded.1));
        let files = reloader::start(path, (config.clone(), stamps), Arc::clone(&gateway), reports, apply)?;
        supervisor.start(RELOAD, stop, follow(files, hangups, Arc::clone(&gateway), pages, stop.clone()));

        let drain_timeout = config.server.drain_timeout;
        let (state_file, running) = (config.state_file.clone(), Arc::clone(&gateway));
        let tls = certificate.as_ref().map(Followed::tls);
        if let Some(certificate) = certificate {
            supervisor.start("the certificate", &never, certificate.run());
        }
        let serving = server::serve(listener, gateway, Arc::new(config), auth, tls, stop.clone());
        supervisor.start(LISTENER, stop, serving.map(Ok));
        Ok(Self { supervisor, stopping, bus_stop, traces_stop, metrics, drain_timeout, state_file, gateway: running })
    }

    /// Waits until the gateway has to stop, because of a signal or because a part failed.
    async fn until_stop(&mut self, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => self.stopping.set("the gateway stops".to_owned()),
            failure = self.supervisor.failure() => self.stopping.set(format!("the gateway stops: {failure}")),
        }
        stop.cancel();
    }

    /// Ends the parts in order: the sessions first, and then the bus, which still publishes the messages of the
    /// sessions.
    async fn drain(mut self) -> anyhow::Result<()> {
        self.supervisor.ended(LISTENER, self.drain_timeout + STOP_MARGIN).await;
        self.bus_stop.cancel();
        self.supervisor.ended(BUS, bus::DRAIN + STOP_MARGIN).await;
        self.supervisor.ended(RELOAD, FILES_STOP).await;
        self.supervisor.ended(TIMERS, STOP_MARGIN).await;
        self.save_state().await;
        self.traces_stop.cancel();
        self.supervisor.ended(TRACES, traces::FLUSH + STOP_MARGIN).await;
        self.metrics.log_limits.log_suppressed();
        tracing::info!("stopped");
        Ok(self.supervisor.finish()?)
    }
}

impl Running {
    /// Writes the state of the plugins to the file, after the last call of a plugin.
    async fn save_state(&self) {
        let Some(path) = &self.state_file else { return };
        let offloaded = async {
            while self.gateway.snapshot().plugins().any(|plugin| plugin.offload_thread().is_busy()) {
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        if time::timeout(STOP_MARGIN, offloaded).await.is_err() {
            tracing::warn!("plugins are still called: what these calls write is not saved");
        }
        let state = self.gateway.accounts.save();
        match saved::save(path, &state) {
            Ok(()) => tracing::info!(file = %path.display(), plugins = state.len(), "plugin state saved"),
            Err(error) => tracing::error!(
                file = %path.display(),
                "plugin state not saved, and the next start finds the older state: {error:#}"
            ),
        }
    }
}

/// Runs the part that owns the reload thread: logs when all plugins are loaded, makes the thread look at the files at each
/// SIGHUP, and stops the thread when the gateway stops.
async fn follow(
    files: Reloading,
    mut hangups: Signal,
    gateway: Arc<Gateway>,
    pages: String,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let loaded = async {
        files.loaded().await;
        tracing::info!(plugins = %gateway.snapshot(), "serving");
        tracing::info!("open {pages} to watch the gateway, and {pages}playground to play");
        files.ended().await
    };
    let hung_up = async {
        while hangups.recv().await.is_some() {
            tracing::info!("SIGHUP: looking at the files. Changes are noticed without it, too");
            files.look();
        }
        future::pending::<()>().await;
    };
    tokio::select! {
        () = stop.cancelled() => files.stop(),
        _ = loaded => {}
        () = hung_up => {}
    }
    match files.ended().await {
        End::Stopped => Ok(()),
        End::Panicked => anyhow::bail!("it panicked"),
    }
}

/// Calls plugins when their timers are due, until `stop`.
async fn timers(gateway: Arc<Gateway>, stop: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = gateway.run_timers() => Ok(()),
    }
}

/// Removes expired entries of the plugins' state.
async fn remove_expired(gateway: Arc<Gateway>) -> anyhow::Result<()> {
    gateway.accounts.remove_expired().await;
    Ok(())
}

/// Loads the keys that check tokens, and loads them again when they change.
async fn keys(auth: Arc<Authenticator>) -> anyhow::Result<()> {
    auth.follow_keys().await;
    Ok(())
}

/// Applies the settings that a reload of gateway.yaml can change, except those of plugins.
fn apply(config: &Config, gateway: &Gateway, auth: &Authenticator) {
    gateway.require(config.required.clone());
    gateway.registry.limits.set(config.limits);
    auth.configure(config.auth.as_ref());
}

/// Logs every second how many log lines were suppressed.
async fn log_suppressed(metrics: Arc<Metrics>) -> anyhow::Result<()> {
    let mut interval = time::interval(Duration::from_secs(1));
    loop {
        interval.tick().await;
        metrics.log_limits.log_suppressed();
    }
}

/// Reads the certificate, if the listener speaks TLS.
fn load_certificate(path: &Path, config: &Config, metrics: &Arc<Metrics>) -> Result<Option<Followed>, ConfigError> {
    let start = |files| Followed::start(files, Arc::clone(metrics));
    let invalid = |error: Invalid| ConfigError { path: path.to_owned(), errors: vec![error.to_string()] };
    config.server.tls.as_ref().map(start).transpose().map_err(invalid)
}

fn listening(key: &str, address: SocketAddr, listener: io::Result<TcpListener>) -> anyhow::Result<TcpListener> {
    let listener = listener.with_context(|| format!("cannot listen on {address} ({key})"))?;
    tracing::info!(address = %listener.local_addr()?, "listening ({key})");
    Ok(listener)
}

/// Returns the URL of the pages of the admin listener.
fn pages(mut admin: SocketAddr) -> String {
    if admin.ip().is_unspecified() {
        admin.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    format!("http://{admin}/")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a gateway of which these parts run.
    fn running(supervisor: Supervisor) -> Running {
        let metrics = Arc::<Metrics>::default();
        let gateway = Arc::new(Gateway::new(Arc::clone(&metrics), Arc::default(), 1 << 20));
        let (stopping, [bus_stop, traces_stop]) = (Arc::default(), [(); 2].map(|()| CancellationToken::new()));
        let drain_timeout = Duration::from_secs(10);
        Running { supervisor, stopping, bus_stop, traces_stop, metrics, drain_timeout, state_file: None, gateway }
    }

    #[tokio::test]
    async fn a_part_that_fails_turns_readiness_red_drains_the_others_and_is_the_error_of_the_process() {
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor::default();
        let (drained, told) = tokio::sync::oneshot::channel();
        let listener = stop.clone().cancelled_owned().map(move |()| {
            let _ = drained.send(());
            Ok(())
        });
        supervisor.start(LISTENER, &stop, listener);
        supervisor.start("the part", &CancellationToken::new(), async { anyhow::bail!("no more descriptors") });
        let mut running = running(supervisor);
        let (stopping, bus_stop) = (Arc::clone(&running.stopping), running.bus_stop.clone());
        running.until_stop(&stop).await;
        let because = "the part ended unexpectedly: no more descriptors";
        assert_eq!(stopping.why(), Some(&format!("the gateway stops: {because}")));
        assert!(stop.is_cancelled() && !bus_stop.is_cancelled());
        assert_eq!(running.drain().await.map_err(|error| error.to_string()), Err(because.to_owned()));
        assert_eq!(told.await, Ok(()), "the listener has drained");
        assert!(bus_stop.is_cancelled());
    }

    #[tokio::test]
    async fn a_signal_is_no_error() {
        let stop = CancellationToken::new();
        let mut running = running(Supervisor::default());
        stop.cancel();
        running.until_stop(&stop).await;
        assert_eq!(running.stopping.why().map(String::as_str), Some("the gateway stops"));
        assert!(running.drain().await.is_ok());
    }

    #[tokio::test]
    async fn a_reload_thread_that_panics_is_a_part_that_fails() {
        let gateway = running(Supervisor::default()).gateway;
        let hangups = signal(SignalKind::hangup()).unwrap();
        let outcome = follow(Reloading::panicked(), hangups, gateway, String::new(), CancellationToken::new()).await;
        assert_eq!(outcome.map_err(|error| error.to_string()), Err("it panicked".to_owned()));
    }
}
