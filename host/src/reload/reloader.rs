//! Follows the plugins directory and gateway.yaml, and puts what changed to use. Its thread only looks and decides; everything that
//! may take long runs on threads of its own, so that it hears a stop at once.
//!
//! The system's events about files only wake the thread up. Network file systems without events are served too, half a second later.

use crate::{
    config::Config,
    reload::{
        catalog::{Catalog, Done, Report},
        choice::Assembly,
        inbox::{Inbox, PAUSE, POLL},
        reports::{Known, Reports},
        watched::{Look, Stamp, Watched},
        watcher::watch,
    },
    routing::gateway::Gateway,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::sync::watch::{Receiver, Sender, channel};

/// How long `gateway check` waits for files that change without pause.
const MAX_UNSETTLED: Duration = Duration::from_secs(10);

/// How far the thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Files that were there at the start are being loaded.
    Loading,
    /// It is known of each what it comes to.
    Loaded,
    /// It was stopped.
    Stopped,
}

/// How the thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was stopped.
    Stopped,
    /// It panicked, so files are not followed any more. The panic hook has written why to the log.
    Panicked,
}

/// The running thread.
pub struct Reloading {
    inbox: Arc<Inbox<Done>>,
    phase: Receiver<Phase>,
}

impl Reloading {
    /// Tells the thread to end, and does not wait for it. What it is compiling is given up.
    pub fn stop(&self) {
        self.inbox.stop();
    }

    /// Resolves when the thread has ended.
    pub async fn ended(&self) -> End {
        // An error means that the sender went without a word.
        let stopped = self.phase.clone().wait_for(|phase| *phase == Phase::Stopped).await.is_ok();
        if stopped { End::Stopped } else { End::Panicked }
    }

    /// Resolves when it is known of each file that was there at the start what it comes to, or when the thread has ended.
    pub async fn loaded(&self) {
        // An error means that the thread has ended.
        let _ = self.phase.clone().wait_for(|phase| *phase != Phase::Loading).await;
    }
}

struct Reloader {
    catalog: Catalog,
    inbox: Arc<Inbox<Done>>,
    gateway: Arc<Gateway>,
    reports: Arc<Reports>,
    config: Config,
    path: PathBuf,
    file: Watched,
    /// Why gateway.yaml cannot be read now.
    unread: Option<String>,
    phase: Sender<Phase>,
}

/// Starts to load the plugins and to follow the directory and the file `path`, which `config` was read from. Returns at once.
///
/// # Errors
/// Where no thread can be started, or the machine cannot run WebAssembly.
pub fn start(path: &Path, config: Config, gateway: Arc<Gateway>, reports: Arc<Reports>) -> anyhow::Result<Reloading> {
    let inbox = Arc::<Inbox<Done>>::default();
    let catalog = Catalog::new(&config, Arc::clone(&inbox), Arc::clone(&gateway.metrics))?;
    let mut file = Watched::default();
    if let Ok(stamp) = Stamp::of(path) {
        file.look(stamp.clone());
        file.take(stamp);
    }
    let (phase, phases) = channel(Phase::Loading);
    let reloader = Reloader {
        catalog,
        inbox: Arc::clone(&inbox),
        gateway,
        reports,
        config,
        path: path.to_owned(),
        file,
        unread: None,
        phase,
    };
    thread::Builder::new().name("reload".to_owned()).spawn(move || reloader.run())?;
    Ok(Reloading { inbox, phase: phases })
}

/// Loads every file of the plugins directory once and returns what became of each.
///
/// # Errors
/// Where the machine cannot run WebAssembly.
pub fn load_once(config: &Config) -> anyhow::Result<Vec<Report>> {
    let inbox = Arc::<Inbox<Done>>::default();
    let mut catalog = Catalog::new(config, Arc::clone(&inbox), Arc::default())?;
    let until = Instant::now() + MAX_UNSETTLED;
    let mut unsettled = catalog.look(&config.directory);
    loop {
        catalog.work(config);
        if !catalog.is_busy() || (unsettled && Instant::now() > until) {
            catalog.assemble();
            return Ok(catalog.report());
        }
        let next = Instant::now() + PAUSE;
        let wake = inbox.wait(next, next);
        wake.done.into_iter().for_each(|done| catalog.finish(done));
        if wake.look {
            unsettled = catalog.look(&config.directory);
        }
    }
}

impl Reloader {
    fn run(mut self) {
        let _watcher = watch(&self.config.directory, &self.path, Arc::clone(&self.inbox));
        let mut unsettled = self.look();
        self.catalog.await_all();
        let mut looked = Instant::now();
        loop {
            self.catalog.work(&self.config);
            self.install();
            let poll = if unsettled { PAUSE } else { POLL };
            let wake = self.inbox.wait(looked + PAUSE, looked + poll);
            if wake.stop {
                break;
            }
            wake.done.into_iter().for_each(|done| self.catalog.finish(done));
            if wake.look {
                unsettled = self.look();
                looked = Instant::now();
            }
        }
        // The children end with the catalog.
        let Self { catalog, phase, .. } = self;
        drop(catalog);
        phase.send_replace(Phase::Stopped);
    }

    /// True if another look is wanted soon.
    fn look(&mut self) -> bool {
        let unsettled_config = self.look_at_config();
        self.catalog.look(&self.config.directory) || unsettled_config
    }

    fn look_at_config(&mut self) -> bool {
        let stamp = match Stamp::of(&self.path) {
            Ok(stamp) => stamp,
            Err(error) => {
                self.cannot_be_read(&format!("{}: it cannot be looked at: {error}", self.path.display()));
                return false;
            }
        };
        match self.file.look(stamp.clone()) {
            Look::Same => return false,
            Look::Unsettled => return true,
            Look::Changed => {}
        }
        let text = match Config::text(&self.path) {
            Ok(text) => text,
            Err(error) => {
                self.file.failed();
                self.cannot_be_read(&error.to_string());
                return false;
            }
        };
        self.file.take(stamp);
        self.unread = None;
        match Config::parse_file(&self.path, &text) {
            Ok(config) => self.configure(config),
            Err(error) => tracing::error!("configuration rejected, the running one stays: {error}"),
        }
        false
    }

    /// It is tried again, and the same reason is told once.
    fn cannot_be_read(&mut self, error: &str) {
        if self.unread.as_deref() != Some(error) {
            tracing::error!("configuration rejected, the running one stays: {error}");
            self.unread = Some(error.to_owned());
        }
    }

    fn configure(&mut self, config: Config) {
        let restart = self.config.restart_needed(&config);
        if !restart.is_empty() {
            tracing::warn!(keys = restart.join(", "), "these settings change with the next start only");
        }
        self.config = self.config.with_live_settings_of(config);
        self.warn_of_unknown_plugins();
        tracing::info!("configuration read again");
    }

    fn install(&mut self) {
        if let Some(Assembly { plugins, news }) = self.catalog.assemble() {
            self.gateway.install(plugins);
            news.iter().for_each(|news| news.tell(&self.gateway.metrics));
        }
        self.reports.set(Known {
            plugins: self.catalog.report(),
            directory_error: self.catalog.directory_error().cloned(),
            looked: true,
            games: self.config.games.clone(),
        });
        if *self.phase.borrow() == Phase::Loading && !self.catalog.is_busy() {
            self.warn_of_unknown_plugins();
            self.phase.send_replace(Phase::Loaded);
        }
    }

    fn warn_of_unknown_plugins(&self) {
        if *self.phase.borrow() == Phase::Loading && self.catalog.is_busy() {
            return; // told when everything is loaded
        }
        let snapshot = self.gateway.snapshot();
        for name in self.config.configured_plugins() {
            if !snapshot.plugins().any(|plugin| &**plugin.name() == name) {
                tracing::warn!(plugin = name, "plugins.settings names a plugin that is not loaded");
            }
        }
    }
}
