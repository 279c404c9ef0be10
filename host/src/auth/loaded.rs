//! The last valid key set of a source. A source that fails keeps it.

use super::key_set::KeySet;
use crate::telemetry::text;
use arc_swap::ArcSwapOption;
use std::{
    fmt::Display,
    sync::{Arc, Mutex, PoisonError},
};

/// The last valid key set of a source, and why the source fails now.
#[derive(Debug)]
pub(super) struct Loaded {
    /// The source as the log names it.
    pub(super) source: String,
    keys: ArcSwapOption<KeySet>,
    error: Mutex<Option<String>>,
}

/// The state of a source of keys, for the readiness report.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// The configuration key of the source, with the file or the host.
    pub source: String,
    /// The number of keys that check tokens.
    pub keys: usize,
    /// Why the source fails now, or `None`.
    pub error: Option<String>,
}

impl Loaded {
    pub(super) fn new(source: String) -> Self {
        Self { source, keys: ArcSwapOption::empty(), error: Mutex::default() }
    }

    /// Returns the last valid key set, or `None` if there was none yet.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// Records the outcome of an attempt to load the keys, and logs what has changed. An error keeps the last keys.
    pub(super) fn record(&self, outcome: Result<KeySet, impl Display>) {
        let source = self.source.as_str();
        match outcome {
            Ok(keys) => {
                let had_failed = self.error.lock().unwrap_or_else(PoisonError::into_inner).take().is_some();
                let skipped = keys.skipped.first().map(text::bounded);
                let keys = Arc::new(keys);
                let before = self.keys.swap(Some(Arc::clone(&keys)));
                if had_failed || before.is_none_or(|before| before.differs_from(&keys)) {
                    tracing::info!(source, keys = keys.len(), "keys of tokens loaded");
                    if let Some(first) = skipped {
                        let skipped = keys.skipped.len();
                        tracing::warn!(source, skipped, first, "keys skipped: they cannot check tokens");
                    }
                }
            }
            Err(error) => {
                let error = text::bounded_to(1024, error);
                let mut known = self.error.lock().unwrap_or_else(PoisonError::into_inner);
                if known.as_ref() != Some(&error) {
                    tracing::error!(source, kept = self.count(), error, "keys of tokens not loaded, trying again");
                    *known = Some(error);
                }
            }
        }
    }

    /// Returns whether the last attempt to load the keys failed.
    pub(super) fn fails(&self) -> bool {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Records that the source is again as it was when the last keys were loaded, and logs it if the source has failed
    /// since.
    pub(super) fn restored(&self) {
        if self.error.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::info!(source = self.source.as_str(), keys = self.count(), "keys of tokens loaded");
        }
    }

    /// Returns the state of the source.
    pub(super) fn report(&self) -> Report {
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Report { source: self.source.clone(), keys: self.count(), error }
    }

    fn count(&self) -> usize {
        self.keys.load().as_ref().map_or(0, |keys| keys.len())
    }
}
