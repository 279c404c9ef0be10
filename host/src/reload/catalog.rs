//! The catalog of the files in the plugins directory. A new version is loaded completely before it replaces the old
//! version. If the new version is not fit, the last good version continues to serve. Files are loaded and started on
//! other threads, so that one slow file does not delay other files.

use crate::{
    config::Config,
    plugin::{Keeper, Plugin, offload::OffloadThread},
    reload::{
        cache::CacheDirectory,
        choice::{self, Assembly, Choice},
        entry::{Entry, Job, Loading, Seen},
        inbox::Inbox,
        judge::{self, Cancel, Failure, Loader, Priority},
        plugin_file::{Loaded, file_name, load, wasm_files},
        watched::Stamp,
    },
    telemetry::{metrics::Metrics, text},
};
use std::{
    collections::{BTreeMap, VecDeque},
    io, mem,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Instant,
};

/// The maximum number of files that are judged at the same time. Each child process may take as much memory as
/// `plugins.compile_memory_mb` permits.
const MAX_LOADING: usize = 2;

/// The maximum number of generations that are started at the same time.
const MAX_STARTING: usize = 8;

/// The maximum number of removed plugins whose metrics are kept, so that their counters continue if a plugin returns.
const MAX_REMOVED_WITH_METRICS: usize = 16;

/// The plugin files of a directory, and their states.
pub struct Catalog {
    loader: Arc<Loader>,
    /// The directory of the loader's compiled code, which is removed with this value if it is temporary.
    _cache: CacheDirectory,
    inbox: Arc<Inbox<Done>>,
    metrics: Arc<Metrics>,
    keeper: Arc<dyn Keeper>,
    files: BTreeMap<PathBuf, Entry>,
    /// Why the directory cannot be read, if it cannot.
    directory_error: Option<String>,
    /// Whether the directory was read once. The gateway is not ready before the files are in use that were there then.
    is_listed: bool,
    /// The generations that were last put to use, sorted by plugin name.
    serving: Vec<Arc<Plugin>>,
    /// The offload threads by plugin name. An offload thread ends with the last generation that uses it.
    offload_threads: BTreeMap<Arc<str>, Weak<OffloadThread>>,
    /// The names of removed plugins and files whose metrics are still kept, oldest first.
    removed: VecDeque<Arc<str>>,
    jobs: u64,
    loading: usize,
    starting: usize,
}

/// Finished work on a file.
pub struct Done {
    path: PathBuf,
    job: u64,
    outcome: Outcome,
}

enum Outcome {
    Loaded(Loaded),
    Started(Result<Arc<Plugin>, String>),
}

/// The state of a file in the readiness report.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// The file's name.
    pub file: String,
    /// The name and the version of the plugin that serves from the file.
    pub serving: Option<String>,
    /// Why the file's current content is not in use.
    pub error: Option<String>,
    /// Whether the file is being compiled or waits to be compiled.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub compiling: bool,
    /// Whether the file existed at the start of the gateway and has not been in use yet.
    #[serde(skip)]
    pub awaited: bool,
}

impl Catalog {
    /// Returns an empty catalog. Finished work on files is put into the inbox. The keeper holds what is kept for the
    /// plugins over all their generations.
    ///
    /// # Errors
    /// Returns an error if the machine cannot run WebAssembly, or if no cache directory can be created.
    pub fn new(
        config: &Config,
        inbox: Arc<Inbox<Done>>,
        metrics: Arc<Metrics>,
        keeper: Arc<dyn Keeper>,
    ) -> anyhow::Result<Self> {
        let cache = CacheDirectory::open(config.cache_directory.as_deref())?;
        let loader = Arc::new(Loader::new(cache.path(), config)?);
        Ok(Self {
            loader,
            _cache: cache,
            inbox,
            metrics,
            keeper,
            files: BTreeMap::new(),
            directory_error: None,
            is_listed: false,
            serving: Vec::new(),
            offload_threads: BTreeMap::new(),
            removed: VecDeque::new(),
            jobs: 0,
            loading: 0,
            starting: 0,
        })
    }

    /// Follows a change of gateway.yaml. If plugins may use more memory now, files that were rejected are tried again.
    pub fn configure(&mut self, config: &Config) {
        let (before, now) = (self.loader.instance_memory, config.largest_memory());
        Arc::make_mut(&mut self.loader).instance_memory = now;
        if now > before {
            self.files.values_mut().for_each(Entry::judge_again);
        }
    }

    /// Checks the directory and each of its files. Returns true if a file changed so recently that another check is
    /// needed soon.
    pub fn look(&mut self, directory: &Path) -> bool {
        match wasm_files(directory) {
            Ok(paths) => {
                let is_first = !mem::replace(&mut self.is_listed, true);
                for path in paths {
                    self.files.entry(path).or_default().awaited |= is_first;
                }
                if self.directory_error.take().is_some() {
                    tracing::info!(directory = %directory.display(), "the plugins directory can be read again");
                }
            }
            Err(error) => {
                self.cannot_be_listed(directory, &error);
                return false;
            }
        }
        let paths: Vec<_> = self.files.keys().cloned().collect();
        paths.iter().fold(false, |unsettled, path| self.look_at(path) | unsettled)
    }

    /// Records that the directory cannot be read. Nothing is known about any file then, so the current plugins continue
    /// to serve.
    fn cannot_be_listed(&mut self, directory: &Path, error: &io::Error) {
        let why = format!("the plugins directory cannot be read: {error}");
        if self.directory_error.as_ref() != Some(&why) && self.metrics.log_limits.permit("directory", &why) {
            tracing::error!(directory = %directory.display(), "{why}; the loaded plugins continue to serve");
        }
        self.directory_error = Some(why);
    }

    fn look_at(&mut self, path: &Path) -> bool {
        let Some(file) = self.files.get_mut(path) else { return false };
        match Stamp::of(path).map(|stamp| file.look(path, stamp)) {
            Ok(Seen::Settled) => false,
            Ok(Seen::Unsettled) => true,
            Ok(Seen::Removed) => {
                self.remove(path);
                false
            }
            Err(error) => {
                let name = file_name(path);
                if file.cannot_be_seen(&error) && self.metrics.log_limits.permit("file", &name) {
                    tracing::warn!(
                        file = name,
                        "a plugin file cannot be looked at, what was loaded serves on: {error}"
                    );
                }
                false
            }
        }
    }

    fn remove(&mut self, path: &Path) {
        let name = file_name(path);
        if let Some(Entry { serving: Some(plugin), .. }) = self.files.remove(path) {
            self.metrics.reloaded(plugin.name(), "removed");
            tracing::info!(file = name, plugin = &**plugin.name(), "plugin removed");
        }
        self.forget(name.into());
    }

    /// Begins the loads and the starts of generations that are due, up to [`MAX_LOADING`] and [`MAX_STARTING`] at a
    /// time.
    pub fn work(&mut self, config: &Config, priority: Priority) {
        let paths: Vec<_> = self.files.keys().cloned().collect();
        for path in &paths {
            if self.loading < MAX_LOADING {
                self.load(path, priority);
            }
            if self.starting < MAX_STARTING {
                self.start(path, config);
            }
        }
    }

    fn load(&mut self, path: &Path, priority: Priority) {
        let Some(file) = self.files.get_mut(path) else { return };
        if file.loading.is_some() {
            return;
        }
        let Some(stamp) = file.to_load.take() else { return };
        let name = file_name(path);
        let (loader, known, cancel) = (Arc::clone(&self.loader), file.digest, Arc::<Cancel>::default());
        self.jobs += 1;
        let job = Job { id: self.jobs, cancel: Arc::clone(&cancel) };
        let done = |outcome| Done { path: path.to_owned(), job: job.id, outcome: Outcome::Loaded(outcome) };
        let (path_read, of, mut whole) = (path.to_owned(), stamp.clone(), done(Loaded::Same));
        let work = move || {
            whole.outcome = Outcome::Loaded(load(&loader, (&path_read, &of), known, priority, &cancel));
            whole
        };
        let panicked =
            done(Loaded::Rejected(None, "the gateway panicked over it, which is a defect: please report it".into()));
        match self.inbox.run(judge::STACK_BYTES, work, panicked) {
            Ok(()) => {
                file.loading = Some(Loading { job, stamp, began: Instant::now() });
                self.loading += 1;
            }
            Err(error) => {
                let failure = Failure::Retry(format!("no thread can be started to load it: {error}"));
                file.load_ended(&name, stamp, Loaded::Failed(failure), &self.metrics);
            }
        }
    }

    fn start(&mut self, path: &Path, config: &Config) {
        let Some(file) = self.files.get_mut(path) else { return };
        if file.starting.is_some() {
            return;
        }
        let Some((described, settings)) = file.to_start(config) else { return };
        let offload_thread = self.offload_threads.get(&described.name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let offload_thread = Arc::new(OffloadThread::new(Arc::clone(&described.name)));
            self.offload_threads.insert(Arc::clone(&described.name), Arc::downgrade(&offload_thread));
            offload_thread
        });
        self.removed.retain(|removed| *removed != described.name);
        self.jobs += 1;
        let id = self.jobs;
        let done = |outcome| Done { path: path.to_owned(), job: id, outcome: Outcome::Started(outcome) };
        let mut whole = done(Err(String::new()));
        let (code, tried, metrics) = (Arc::clone(&described), settings.clone(), Arc::clone(&self.metrics));
        let kept = self.keeper.kept(&described.name);
        let work = move || {
            whole.outcome = Outcome::Started(
                Plugin::start(code, tried, kept, offload_thread, &metrics).map(Arc::new).map_err(text::bounded),
            );
            whole
        };
        let panicked = done(Err("the gateway panicked over its start, which is a defect: please report it".to_owned()));
        // If no thread can be started, the next call of `work` tries again.
        if self.inbox.run(judge::STACK_BYTES, work, panicked).is_ok() {
            file.started(Job { id, cancel: Arc::default() }, described, settings);
            self.starting += 1;
        }
    }

    /// Records finished work.
    pub fn finish(&mut self, done: Done) {
        let Done { path, job, outcome } = done;
        match outcome {
            Outcome::Loaded(loaded) => {
                self.loading -= 1;
                let Some(file) = self.files.get_mut(&path) else { return };
                let Some(loading) = file.loading.take_if(|loading| loading.job.id == job) else { return };
                file.load_ended(&file_name(&path), loading.stamp, loaded, &self.metrics);
            }
            Outcome::Started(outcome) => {
                self.starting -= 1;
                let Some(file) = self.files.get_mut(&path) else { return };
                if file.starting.as_ref().is_some_and(|starting| starting.job.id == job) {
                    file.start_ended(&file_name(&path), outcome, &self.metrics);
                }
            }
        }
    }

    /// Chooses the plugins that serve: for each file the newest generation that has started, unless it claims the name
    /// or a route of another plugin.
    ///
    /// Returns `None` if the chosen plugins serve already, or while generations are being started because of changed
    /// settings.
    pub fn assemble(&mut self) -> Option<Assembly> {
        if self.files.values().any(|file| file.starting.as_ref().is_some_and(|starting| starting.by_settings)) {
            return None;
        }
        let final_word = !self.is_busy();
        let mut chosen: Vec<_> = self.files.iter_mut().map(|(path, file)| Choice::new(file_name(path), file)).collect();
        choice::resolve(&mut chosen);
        let news = chosen.iter_mut().filter_map(|choice| choice.settle(final_word, &self.metrics)).collect();
        let mut plugins: Vec<_> = chosen.iter().filter_map(|choice| choice.plugin.clone()).collect();
        plugins.sort_by(|a, b| a.name().cmp(b.name()));
        if plugins.iter().map(Arc::as_ptr).eq(self.serving.iter().map(Arc::as_ptr)) {
            return None;
        }
        let before = mem::replace(&mut self.serving, plugins.clone());
        for plugin in before {
            if !plugins.iter().any(|serving| serving.name() == plugin.name()) {
                self.forget(Arc::clone(plugin.name()));
            }
        }
        self.offload_threads.retain(|_, thread| thread.strong_count() > 0);
        Some(Assembly { plugins, news })
    }

    /// Records that a name is not used any more. Removes the metrics of the oldest unused names if there are more than
    /// [`MAX_REMOVED_WITH_METRICS`].
    fn forget(&mut self, name: Arc<str>) {
        self.removed.retain(|removed| *removed != name);
        self.removed.push_back(name);
        while self.removed.len() > MAX_REMOVED_WITH_METRICS {
            let oldest = self.removed.pop_front();
            oldest.iter().for_each(|name| self.metrics.forget_plugin(name));
        }
    }

    /// Returns whether the outcome for some file is still unknown. Returns false if the directory cannot be read.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.directory_error.is_none() && self.files.values().any(Entry::is_pending)
    }

    /// Returns whether the outcome for a file is still unknown that was there at the start. Returns false if the
    /// directory cannot be read.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        self.directory_error.is_none() && self.files.values().any(|file| file.awaited && file.is_pending())
    }

    /// Returns why the directory cannot be read, if it cannot.
    #[must_use]
    pub fn directory_error(&self) -> Option<&String> {
        self.directory_error.as_ref()
    }

    /// Returns the state of each file.
    #[must_use]
    pub fn report(&self) -> Vec<Report> {
        let report = |(path, file): (&PathBuf, &Entry)| Report {
            file: file_name(path),
            serving: file.serving.as_ref().map(|plugin| format!("{} {}", plugin.name(), plugin.version())),
            error: file.error().cloned(),
            compiling: file.is_compiling(),
            awaited: file.awaited,
        };
        self.files.iter().map(report).collect()
    }
}
