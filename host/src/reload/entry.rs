//! One file of the plugins directory: what was seen of it, what is being done with it, and what serves from it.

use crate::{
    config::Config,
    plugin::{Described, Plugin, Settings},
    reload::{
        judge::{Cancel, Failure},
        watched::{Look, Stamp, Watched},
    },
    telemetry::metrics::Metrics,
};
use std::{path::Path, sync::Arc, time::Duration};

/// SHA-256 of a file's bytes.
pub(super) type Digest = [u8; 32];

/// What became of a file that was read.
pub(super) enum Loaded {
    /// It has the bytes that it had before.
    Same,
    /// It is a plugin, which took so long to compile.
    Plugin(Digest, Arc<Described>, Duration),
    /// It is none. There is no digest if it was not read.
    Rejected(Option<Digest>, String),
    /// It has to be tried again, or is not wanted any more.
    Failed(Failure),
}

/// Work on a file that is under way.
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) cancel: Arc<Cancel>,
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
    /// The settings changed and not the file. All that a change of gateway.yaml starts is put to use in one step.
    pub(super) by_settings: bool,
}

/// What a look at a file led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It was taken away.
    Gone,
    /// It changed so lately that another look is wanted soon.
    Unsettled,
    /// Nothing, or work that is wanted.
    Settled,
}

#[derive(Default)]
pub(super) struct Entry {
    watched: Watched,
    /// It was there at the start of the gateway, which is not ready until it was in use once.
    pub(super) of_start: bool,
    /// It is to be read as it was at this look.
    pub(super) to_load: Option<Stamp>,
    pub(super) loading: Option<(Job, Stamp)>,
    pub(super) starting: Option<Starting>,
    pub(super) digest: Option<Digest>,
    pub(super) described: Option<Arc<Described>>,
    /// The settings that its code was last tried with.
    tried: Option<Settings>,
    /// The newest version that is fit.
    pub(super) fit: Option<Arc<Plugin>>,
    /// What is in use.
    pub(super) serving: Option<Arc<Plugin>>,
    /// Why the file cannot be read now.
    unread: Option<String>,
    /// Why its newest content is no plugin.
    unfit: Option<String>,
    /// Why the plugin does not start with its newest settings.
    refused: Option<String>,
    /// Why a fit version is not in use.
    pub(super) conflict: Option<String>,
}

impl Entry {
    /// Takes note of a look. Work on an earlier content ends.
    pub(super) fn look(&mut self, path: &Path, stamp: Stamp) -> Seen {
        match self.watched.look(stamp.clone()) {
            Look::Same => {
                if self.watched.is_taken() {
                    self.unread = None;
                }
                return Seen::Settled;
            }
            Look::Unsettled => {
                (self.to_load, self.loading) = (None, None);
                return Seen::Unsettled;
            }
            Look::Changed => {}
        }
        // A link that leads nowhere is still a file of the directory; without one, the plugin is taken away.
        if stamp == Stamp::Absent && path.symlink_metadata().is_err() {
            return Seen::Gone;
        }
        if self.loading.as_ref().is_none_or(|(_, of)| *of != stamp) {
            self.loading = None;
            self.to_load = Some(stamp);
        }
        Seen::Settled
    }

    /// Nothing can be said of the file, so that nothing changes, but that it is told. True if the error is a new one.
    pub(super) fn cannot_be_seen(&mut self, error: &std::io::Error) -> bool {
        let error = format!("it cannot be looked at: {error}");
        let new = self.unread.as_ref() != Some(&error);
        self.unread = Some(error);
        new
    }

    /// The code and the settings that a generation is to be started with, if those were not tried before. They are from here on.
    pub(super) fn to_start(&self, config: &Config) -> Option<(Arc<Described>, Settings)> {
        let described = self.described.as_ref()?;
        let settings = config.plugin(&described.name, &described.routes);
        (self.tried.as_ref() != Some(&settings)).then(|| (Arc::clone(described), settings))
    }

    /// The generation is being started.
    pub(super) fn started(&mut self, job: Job, described: Arc<Described>, settings: Settings) {
        let by_settings = self.tried.replace(settings).is_some();
        self.starting = Some(Starting { job, described, by_settings });
    }

    /// The generation was started, or not.
    pub(super) fn start_ended(&mut self, name: &str, outcome: Result<Arc<Plugin>, String>, metrics: &Metrics) {
        let current = self.starting.take().zip(self.described.as_ref());
        if !current.is_some_and(|(starting, described)| Arc::ptr_eq(&starting.described, described)) {
            return; // of a content that was replaced meanwhile
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

    /// The file was read and compiled, or not, as it was at the look `stamp`.
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
        self.unread = None;
    }

    fn reject(&self, name: &str, error: &str, metrics: &Metrics) {
        let plugin = self.serving.as_ref().map(|serving| Arc::clone(serving.name()));
        metrics.reloaded(plugin.as_deref().unwrap_or(name), "rejected");
        // A file is tried a few times a second at most, which bounds these lines.
        match plugin {
            Some(plugin) => tracing::error!(
                file = name,
                plugin = &*plugin,
                "plugin rejected, the last good version serves on: {error}"
            ),
            None => tracing::error!(file = name, "plugin rejected: {error}"),
        }
    }

    /// Whether it is being compiled, or will be next.
    pub(super) fn is_compiling(&self) -> bool {
        self.to_load.is_some() || self.loading.is_some()
    }

    /// Whether it is not known yet what it comes to.
    pub(super) fn is_pending(&self) -> bool {
        self.is_compiling() || self.starting.is_some() || (!self.watched.is_taken() && self.unread.is_none())
    }

    /// Why what it has now is not in use.
    pub(super) fn error(&self) -> Option<&String> {
        [&self.unread, &self.unfit, &self.refused, &self.conflict].into_iter().flatten().next()
    }
}
