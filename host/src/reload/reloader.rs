//! Follows the plugins directory, gateway.yaml and the files that it names, and puts changes to use. The reload thread
//! only checks files and decides. Everything that may take long runs on other threads, so that the reload thread notices
//! a stop at once.
//!
//! The system's events about files only wake the thread up. A change on a network file system without events is found
//! up to half a second later.

use crate::{
    config::{Config, ConfigError},
    plugin::{Standalone, offload::lower_thread_priority},
    reload::{
        catalog::{Catalog, Done, Report},
        choice::Assembly,
        inbox::{Inbox, MAX_CHECK_INTERVAL, MIN_CHECK_INTERVAL},
        judge::Priority,
        reports::{Known, Reports},
        watched::{Look, Stamp, Watched},
        watcher::watch,
    },
    routing::{accounts::Accounts, gateway::Gateway},
};
use std::{
    iter,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::sync::watch::{Receiver, Sender, channel};

/// How long `gateway check` waits for files that keep changing.
const MAX_UNSETTLED: Duration = Duration::from_secs(10);

/// The progress of the reload thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The thread loads the files that existed at the start.
    Loading,
    /// The outcome is known for each file that existed at the start.
    Loaded,
    /// The thread was stopped.
    Stopped,
}

/// How the thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The thread was stopped.
    Stopped,
    /// The thread panicked, so changes of files are not followed any more. The panic hook has logged the cause.
    Panicked,
}

/// The handle of the running reload thread.
pub struct Reloading {
    inbox: Arc<Inbox<Done>>,
    phase: Receiver<Phase>,
}

impl Reloading {
    /// Tells the thread to end, and does not wait for the end. Compilations that are under way are cancelled.
    pub fn stop(&self) {
        self.inbox.stop();
    }

    /// Makes the thread look at the files at once.
    pub fn look(&self) {
        self.inbox.look();
    }

    /// Waits until the thread has ended, and returns how it ended.
    pub async fn ended(&self) -> End {
        // An error means that the thread dropped the sender without sending `Stopped`, so it panicked.
        let stopped = self.phase.clone().wait_for(|phase| *phase == Phase::Stopped).await.is_ok();
        if stopped { End::Stopped } else { End::Panicked }
    }

    /// Waits until the outcome is known for each file that existed at the start, or until the thread has ended.
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
    /// The path of gateway.yaml.
    path: PathBuf,
    /// The state of gateway.yaml, and of the files that belong to it.
    file: Watched<Vec<Stamp>>,
    /// Why gateway.yaml cannot be read, if it cannot.
    unread: Option<String>,
    apply: Apply,
    phase: Sender<Phase>,
}

/// Puts the live settings of a new configuration to use that are not about plugins. It must return quickly.
pub type Apply = Box<dyn Fn(&Config) + Send>;

/// Reads gateway.yaml. Returns the configuration, and the stamps of the files that it comes from. The stamps are older
/// than what was read, so no later change is missed.
///
/// # Errors
/// Returns a [`ConfigError`] with everything that is wrong.
pub fn read(path: &Path) -> Result<(Config, Vec<Stamp>), ConfigError> {
    let mut files = vec![path.to_owned()];
    loop {
        // An error shows again at the next look.
        let stamps = files.iter().map(|file| Stamp::of(file).unwrap_or(Stamp::Absent)).collect();
        let config = Config::read(path)?;
        // The file itself names the others, so they are known only now.
        let named = files_of(path, &config);
        if named == files {
            return Ok((config, stamps));
        }
        files = named;
    }
}

/// Returns the files that the live settings of a configuration come from.
fn files_of(path: &Path, config: &Config) -> Vec<PathBuf> {
    iter::once(path).chain(config.live_files()).map(Path::to_owned).collect()
}

/// Starts the reload thread, which loads the plugins and follows the plugins directory and the file `path`. The
/// configuration and the stamps are what [`read`] has returned. `apply` is called with each later configuration. Returns
/// at once.
///
/// # Errors
/// Returns an error if no thread can be started, if no cache directory can be created, or if the machine cannot run
/// WebAssembly.
pub fn start(
    path: &Path,
    (config, stamps): (Config, Vec<Stamp>),
    gateway: Arc<Gateway>,
    reports: Arc<Reports>,
    apply: Apply,
) -> anyhow::Result<Reloading> {
    let inbox = Arc::<Inbox<Done>>::default();
    let keeper = Arc::<Accounts>::clone(&gateway.accounts);
    let catalog = Catalog::new(&config, Arc::clone(&inbox), Arc::clone(&gateway.metrics), keeper)?;
    let mut file = Watched::default();
    file.take(stamps);
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
        apply,
        phase,
    };
    thread::Builder::new().name("reload".to_owned()).spawn(move || {
        // The threads that load files inherit it.
        lower_thread_priority();
        reloader.run();
    })?;
    Ok(Reloading { inbox, phase: phases })
}

/// Loads every file of the plugins directory once, and returns the state of each file. Lowers the priority of the current
/// thread.
///
/// # Errors
/// Returns an error if no cache directory can be created, or if the machine cannot run WebAssembly.
pub fn load_once(config: &Config) -> anyhow::Result<Vec<Report>> {
    let inbox = Arc::<Inbox<Done>>::default();
    let mut catalog = Catalog::new(config, Arc::clone(&inbox), Arc::default(), Arc::new(Standalone))?;
    // A gateway may serve beside this process.
    lower_thread_priority();
    let until = Instant::now() + MAX_UNSETTLED;
    let mut unsettled = catalog.look(&config.directory);
    loop {
        catalog.work(config, Priority::Low);
        if !catalog.is_busy() || (unsettled && Instant::now() > until) {
            catalog.assemble();
            return Ok(catalog.report());
        }
        let next = Instant::now() + MIN_CHECK_INTERVAL;
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
        let mut looked = Instant::now();
        loop {
            // Players wait for the files that were there at the start, and for no other.
            let is_loading = *self.phase.borrow() == Phase::Loading;
            self.catalog.work(&self.config, if is_loading { Priority::Low } else { Priority::Background });
            self.install();
            let poll = if unsettled { MIN_CHECK_INTERVAL } else { MAX_CHECK_INTERVAL };
            let wake = self.inbox.wait(looked + MIN_CHECK_INTERVAL, looked + poll);
            if wake.stop {
                break;
            }
            wake.done.into_iter().for_each(|done| self.catalog.finish(done));
            if wake.look {
                unsettled = self.look();
                looked = Instant::now();
            }
        }
        // Dropping the catalog ends its child processes.
        let Self { catalog, phase, .. } = self;
        drop(catalog);
        phase.send_replace(Phase::Stopped);
    }

    /// Checks gateway.yaml and the plugins directory. Returns true if another check is needed soon.
    fn look(&mut self) -> bool {
        let unsettled_config = self.look_at_config();
        self.catalog.look(&self.config.directory) || unsettled_config
    }

    fn look_at_config(&mut self) -> bool {
        let mut stamps = Vec::new();
        for file in files_of(&self.path, &self.config) {
            match Stamp::of(&file) {
                Ok(stamp) => stamps.push(stamp),
                // The new gateway.yaml may name another file. If it does not, reading it says what is wrong.
                Err(_) if file != self.path => stamps.push(Stamp::Absent),
                Err(error) => {
                    self.cannot_be_read(&format!("{}: it cannot be looked at: {error}", file.display()));
                    return false;
                }
            }
        }
        match self.file.look(stamps) {
            Look::Same => {
                if self.file.is_taken() {
                    self.unread = None;
                }
                return false;
            }
            Look::Unsettled => {
                self.unread = None;
                return true;
            }
            Look::Changed => {}
        }
        let read = read(&self.path).and_then(|(config, stamps)| match self.config.lost_in(&config) {
            Some(lost) => Err(ConfigError { path: self.path.clone(), errors: vec![lost.to_owned()] }),
            None => Ok((config, stamps)),
        });
        match read {
            Ok((config, stamps)) => {
                self.file.take(stamps);
                self.unread = None;
                self.configure(config);
            }
            Err(error) => {
                // The error may be temporary, or that of a file or a host that the configuration names.
                self.file.failed();
                self.cannot_be_read(&error.to_string());
            }
        }
        false
    }

    /// Records why gateway.yaml cannot be read or used, and logs the reason once. It is tried again later.
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
        (self.apply)(&self.config);
        self.catalog.configure(&self.config);
        self.warn_of_unknown_plugins();
        tracing::info!("configuration read again");
    }

    fn install(&mut self) {
        if let Some(Assembly { plugins, news }) = self.catalog.assemble() {
            self.gateway.install(plugins);
            news.iter().for_each(|news| news.report(&self.gateway.metrics));
        }
        let plugins = self.catalog.report();
        let rejected = plugins.iter().filter(|file| file.error.is_some()).count();
        let metrics = &self.gateway.metrics;
        metrics.plugin_files_rejected.set(i64::try_from(rejected).unwrap_or(i64::MAX));
        metrics.config_rejected.set(self.unread.is_some().into());
        self.reports.set(Known {
            plugins,
            directory_error: self.catalog.directory_error().cloned(),
            looked: true,
            games: self.config.games.clone(),
        });
        if self.catalog.is_loading() {
            return;
        }
        // A directory that cannot be read may hold the plugins of the sessions.
        if self.catalog.directory_error().is_none() {
            self.gateway.set_loaded();
        }
        if *self.phase.borrow() == Phase::Loading {
            self.warn_of_unknown_plugins();
            self.phase.send_replace(Phase::Loaded);
        }
    }

    fn warn_of_unknown_plugins(&self) {
        if *self.phase.borrow() == Phase::Loading && self.catalog.is_loading() {
            return; // The warnings follow when every file is loaded.
        }
        let snapshot = self.gateway.snapshot();
        let is_loaded = |name: &str| snapshot.plugins().any(|plugin| &**plugin.name() == name);
        for name in self.config.configured_plugins().filter(|name| !is_loaded(name)) {
            tracing::warn!(plugin = name, "plugins.settings names a plugin that is not loaded");
        }
        for name in self.config.required.iter().filter(|name| !is_loaded(name)) {
            tracing::error!(
                plugin = name,
                "plugins.required names a plugin that is not loaded: no session begins until it is"
            );
        }
    }
}

#[cfg(test)]
impl Reloading {
    /// Returns the handle of a thread that has panicked.
    pub(crate) fn panicked() -> Self {
        Self { inbox: Arc::default(), phase: channel(Phase::Loading).1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_ends_without_being_stopped_has_panicked() {
        let panicked = Reloading::panicked();
        panicked.loaded().await;
        assert_eq!(panicked.ended().await, End::Panicked);
        let (phase, phases) = channel(Phase::Loaded);
        phase.send_replace(Phase::Stopped);
        drop(phase);
        assert_eq!(Reloading { inbox: Arc::default(), phase: phases }.ended().await, End::Stopped);
    }
}
