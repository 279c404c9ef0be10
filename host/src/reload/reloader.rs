//! Watches the plugins directory and gateway.yaml, and puts what changed to use. A thread of its own: compiling is no work for the
//! threads that serve players.
//!
//! The watch on the directories only wakes the thread up; what it then does is look. Network file systems that tell nothing are
//! therefore served as well, half a second later.

use crate::{
    config::{Config, Game},
    plugin::lane,
    reload::catalog::{Assembly, Catalog, Report},
    reload::watched::{Look, Stamp, Watched},
    routing::gateway::Gateway,
};
use notify::{RecursiveMode, Watcher};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// A file that has not changed for so long is taken to be whole.
const SETTLE: Duration = Duration::from_millis(100);

/// How often to look although nothing was told.
const POLL: Duration = Duration::from_millis(500);

/// What operators may know of the files.
#[derive(Debug, Default)]
pub struct Reports(Mutex<Known>);

/// As of the last look.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// What became of each file of the plugins directory.
    pub plugins: Vec<Report>,
    /// Whether every file was in use once. A file that is bad from then on is reported, but does not take a gateway that serves out
    /// of its load balancer.
    pub loaded: bool,
    /// The games.
    pub games: Vec<Game>,
}

impl Reports {
    /// As of the last look.
    #[must_use]
    pub fn get(&self) -> Known {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, plugins: Vec<Report>, games: &[Game]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.loaded |= plugins.iter().all(|plugin| plugin.error.is_none());
        known.plugins = plugins;
        if known.games != games {
            known.games = games.to_vec();
        }
    }
}

/// Why the thread wakes up.
enum Wake {
    Look,
    Stop,
}

/// The running watch. It ends, and is waited for, when this is dropped.
pub struct Reloading {
    wake: mpsc::Sender<Wake>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Reloading {
    fn drop(&mut self) {
        // An error means that the thread has ended by itself.
        let _ = self.wake.send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been told by the panic hook.
            let _ = thread.join();
        }
    }
}

struct Reloader {
    catalog: Catalog,
    gateway: Arc<Gateway>,
    reports: Arc<Reports>,
    config: Config,
    path: PathBuf,
    file: Watched,
}

/// Loads the plugins and then follows the directory and the file `path`, which `config` was read from. Answers when the plugins are
/// loaded.
///
/// # Errors
/// Where no thread can be started.
pub fn start(
    path: &Path,
    config: Config,
    catalog: Catalog,
    gateway: Arc<Gateway>,
    reports: Arc<Reports>,
) -> io::Result<Reloading> {
    let mut file = Watched::default();
    file.take(Stamp::of(path));
    let mut reloader = Reloader { catalog, gateway, reports, config, path: path.to_owned(), file };
    let (wake, woken) = mpsc::channel();
    let (loaded, all_loaded) = mpsc::channel::<()>();
    let waker = wake.clone();
    let thread = thread::Builder::new().name("reload".to_owned()).spawn(move || {
        // Before the first compilation, whose threads inherit it.
        lane::yield_to_players();
        reloader.load_all();
        let _watcher = watch(&reloader, waker);
        drop(loaded);
        reloader.follow(&woken);
    })?;
    // Nothing is sent: the sender goes when everything is loaded, or when the thread has panicked.
    let _ = all_loaded.recv();
    Ok(Reloading { wake, thread: Some(thread) })
}

/// Directories are watched, not files: a file that is replaced takes its watch with it.
fn watch(reloader: &Reloader, wake: mpsc::Sender<Wake>) -> Option<notify::RecommendedWatcher> {
    let parent = reloader.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let watching = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // To look is an access as well, and would wake itself up for ever.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            // An error means that the reloader has ended.
            let _ = wake.send(Wake::Look);
        }
    });
    let watched = watching.and_then(|mut watcher| {
        watcher.watch(&reloader.config.directory, RecursiveMode::NonRecursive)?;
        watcher.watch(parent, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watched
        .map_err(|error| tracing::warn!(%error, "changes of files are not told by the system: looking every {POLL:?} instead"))
        .ok()
}

impl Reloader {
    fn load_all(&mut self) {
        self.catalog.load_all(&self.config.directory, &self.config);
        self.install();
        self.warn_of_unknown_plugins();
    }

    fn follow(&mut self, woken: &mpsc::Receiver<Wake>) {
        loop {
            match woken.recv_timeout(POLL) {
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Wake::Look) | Err(RecvTimeoutError::Timeout) => {}
            }
            while self.look() {
                thread::sleep(SETTLE);
            }
        }
    }

    /// True where another look is wanted soon.
    fn look(&mut self) -> bool {
        let unsettled_config = self.look_at_config();
        let unsettled = self.catalog.look(&self.config.directory, &self.config);
        self.install();
        unsettled || unsettled_config
    }

    fn look_at_config(&mut self) -> bool {
        let stamp = Stamp::of(&self.path);
        match self.file.look(stamp.clone()) {
            Look::Same => return false,
            Look::Unsettled => return true,
            Look::Changed => self.file.take(stamp),
        }
        match Config::read(&self.path) {
            Ok(config) => self.configure(config),
            Err(error) => tracing::error!("configuration rejected, the running one stays: {error}"),
        }
        false
    }

    fn configure(&mut self, config: Config) {
        let restart = self.config.restart_needed(&config);
        if !restart.is_empty() {
            tracing::warn!(keys = restart.join(", "), "these settings change with the next start only");
        }
        self.config = self.config.with_live_settings_of(config);
        self.catalog.configure(&self.config);
        self.warn_of_unknown_plugins();
        tracing::info!("configuration read again");
    }

    fn install(&mut self) {
        if let Some(Assembly { plugins, news }) = self.catalog.assemble() {
            self.gateway.install(plugins);
            news.iter().for_each(|news| news.tell(&self.gateway.metrics));
        }
        self.reports.set(self.catalog.report(), &self.config.games);
    }

    fn warn_of_unknown_plugins(&self) {
        let snapshot = self.gateway.snapshot();
        for name in self.config.configured_plugins() {
            if !snapshot.plugins().any(|plugin| &**plugin.name() == name) {
                tracing::warn!(plugin = name, "plugins.settings names a plugin that is not loaded");
            }
        }
    }
}
