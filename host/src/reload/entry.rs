//! The state of one file in the plugins directory: its last check, the work that is under way, and the generation that
//! serves from the file.

use crate::{
    config::Config,
    plugin::{Described, Plugin, Settings},
    reload::{
        judge::{Cancel, Failure},
        plugin_file::{Digest, Loaded},
        watched::{Look, Stamp, Watched},
    },
    telemetry::metrics::Metrics,
};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a load may take that goes on although its file was replaced.
const MAX_OUTDATED: Duration = Duration::from_secs(10);

/// Work on a file that is under way. Dropping the job cancels a load. A start cannot be cancelled.
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) cancel: Arc<Cancel>,
}

/// A load that is under way.
pub(super) struct Loading {
    pub(super) job: Job,
    /// The stamp of the content that is loaded.
    pub(super) stamp: Stamp,
    pub(super) began: Instant,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// A generation that is being started.
pub(super) struct Starting {
    pub(super) job: Job,
    pub(super) described: Arc<Described>,
    /// Whether the generation is started because its settings changed, and not its file. All generations that a change
    /// of gateway.yaml starts are put to use in one step.
    pub(super) by_settings: bool,
}

/// The result of a check of a file in the plugins directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The file was removed.
    Removed,
    /// The file changed so recently that another check is needed soon.
    Unsettled,
    /// The file is unchanged, or its new content is ready to be loaded.
    Settled,
}

/// The state of one file in the plugins directory.
#[derive(Default)]
pub(super) struct Entry {
    watched: Watched,
    /// Whether the file existed at the start of the gateway and has not been in use yet. The gateway is not ready while
    /// such a file exists.
    pub(super) awaited: bool,
    /// The stamp of new content that has to be loaded.
    pub(super) to_load: Option<Stamp>,
    /// The load that is under way.
    pub(super) loading: Option<Loading>,
    /// Whether the last load was cancelled because the file was replaced.
    cancelled: bool,
    /// The start that is under way.
    pub(super) starting: Option<Starting>,
    /// The digest of the content that was last loaded or rejected.
    pub(super) digest: Option<Digest>,
    /// The newest code that was loaded.
    pub(super) described: Option<Arc<Described>>,
    /// The settings with which the newest code was last started, whatever the outcome.
    tried: Option<Settings>,
    /// The newest generation that has started.
    pub(super) fit: Option<Arc<Plugin>>,
    /// The generation that is in use.
    pub(super) serving: Option<Arc<Plugin>>,
    /// Why the file cannot be read.
    unread: Option<String>,
    /// Why the newest content is rejected.
    unfit: Option<String>,
    /// Why the newest code does not start with its newest settings.
    refused: Option<String>,
    /// Why the newest generation that has started is not in use.
    pub(super) conflict: Option<String>,
}

impl Entry {
    /// Records a check of the file. If the content changed, this may cancel the load of earlier content.
    pub(super) fn look(&mut self, path: &Path, stamp: Stamp) -> Seen {
        match self.watched.look(stamp.clone()) {
            Look::Same => {
                if self.watched.is_taken() {
                    // The file is again as it was loaded, so what is being loaded has been withdrawn.
                    (self.to_load, self.loading, self.unread) = (None, None, None);
                }
                return Seen::Settled;
            }
            Look::Unsettled => {
                self.to_load = None;
                self.outdate();
                return Seen::Unsettled;
            }
            Look::Changed => {}
        }
        // A dangling symbolic link is still a file of the directory. The plugin is removed only if there is no link
        // either.
        if stamp == Stamp::Absent && path.symlink_metadata().is_err() {
            return Seen::Removed;
        }
        if self.loading.as_ref().is_none_or(|loading| loading.stamp != stamp) {
            self.outdate();
            self.to_load = Some(stamp);
        }
        Seen::Settled
    }

    /// Cancels the load that is under way, because its content was replaced. If the load before was cancelled too, this
    /// one goes on for up to [`MAX_OUTDATED`]. Otherwise, on a busy machine, no version of a file would be used that is
    /// replaced faster than it is compiled.
    fn outdate(&mut self) {
        let goes_on = |loading: &Loading| self.cancelled && loading.began.elapsed() < MAX_OUTDATED;
        if self.loading.as_ref().is_some_and(|loading| !goes_on(loading)) {
            (self.loading, self.cancelled) = (None, true);
        }
    }

    /// Makes the file be judged again if its content was rejected, or is being judged.
    pub(super) fn judge_again(&mut self) {
        if self.unfit.is_some() || self.loading.is_some() {
            (self.digest, self.loading) = (None, None);
            self.watched.forget();
        }
    }

    /// Records that the metadata of the file cannot be read. Nothing else changes. Returns whether the error differs
    /// from the last one.
    pub(super) fn cannot_be_seen(&mut self, error: &std::io::Error) -> bool {
        let error = format!("it cannot be looked at: {error}");
        let new = self.unread.as_ref() != Some(&error);
        self.unread = Some(error);
        new
    }

    /// Returns the code and the settings to start a generation with. Returns `None` if the same code was already tried
    /// with the same settings.
    pub(super) fn to_start(&self, config: &Config) -> Option<(Arc<Described>, Settings)> {
        let described = self.described.as_ref()?;
        let settings = config.plugin(&described.name, &described.routes);
        (self.tried.as_ref() != Some(&settings)).then(|| (Arc::clone(described), settings))
    }

    /// Records that a generation is being started.
    pub(super) fn started(&mut self, job: Job, described: Arc<Described>, settings: Settings) {
        let by_settings = self.tried.replace(settings).is_some();
        self.starting = Some(Starting { job, described, by_settings });
    }

    /// Records the outcome of the start of a generation.
    pub(super) fn start_ended(&mut self, name: &str, outcome: Result<Arc<Plugin>, String>, metrics: &Metrics) {
        let current = self.starting.take().zip(self.described.as_ref());
        if !current.is_some_and(|(starting, described)| Arc::ptr_eq(&starting.described, described)) {
            return; // The content was replaced in the meantime.
        }
        match outcome {
            Ok(plugin) => {
                self.fit = Some(plugin);
                self.refused = None;
            }
            Err(error) => {
                self.reject(name, &error, metrics);
                self.refused = Some(error);
            }
        }
    }

    /// Records the outcome of loading the content with the stamp `stamp`.
    pub(super) fn load_ended(&mut self, name: &str, stamp: Stamp, loaded: Loaded, metrics: &Metrics) {
        self.loading = None;
        match loaded {
            Loaded::Failed(Failure::Retry(error)) => {
                self.watched.failed();
                if self.unread.as_ref() != Some(&error) {
                    self.reject(name, &error, metrics);
                }
                self.unread = Some(error);
                return;
            }
            Loaded::Failed(_) => return,
            Loaded::Same => {}
            Loaded::Plugin(digest, described, took) => {
                let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                let (plugin, version) = (&*described.name, &described.version);
                tracing::info!(file = name, plugin, version, took_ms, "plugin compiled");
                self.digest = Some(digest);
                self.described = Some(described);
                (self.tried, self.starting, self.unfit) = (None, None, None);
            }
            Loaded::Rejected(digest, error) => {
                self.reject(name, &error, metrics);
                self.digest = digest;
                self.unfit = Some(error);
            }
        }
        self.watched.take(stamp);
        self.cancelled = false;
        self.unread = None;
    }

    fn reject(&self, name: &str, error: &str, metrics: &Metrics) {
        let plugin = self.serving.as_ref().map(|serving| Arc::clone(serving.name()));
        metrics.reloaded(plugin.as_deref().unwrap_or(name), "rejected");
        // These lines need no limit, because a file is tried at most a few times a second.
        match plugin {
            Some(plugin) => tracing::error!(
                file = name,
                plugin = &*plugin,
                "plugin rejected, the last good version serves on: {error}"
            ),
            None => tracing::error!(file = name, "plugin rejected: {error}"),
        }
    }

    /// Returns whether the file is being compiled or waits to be compiled.
    pub(super) fn is_compiling(&self) -> bool {
        self.to_load.is_some() || self.loading.is_some()
    }

    /// Returns whether the outcome for the file's current content is still unknown.
    pub(super) fn is_pending(&self) -> bool {
        self.is_compiling() || self.starting.is_some() || (!self.watched.is_taken() && self.unread.is_none())
    }

    /// Returns why the file's current content is not in use.
    pub(super) fn error(&self) -> Option<&String> {
        [&self.unread, &self.unfit, &self.refused, &self.conflict].into_iter().flatten().next()
    }
}
