//! The state of the plugin files as the readiness report shows it to operators.

use crate::{config::Game, reload::catalog::Report};
use std::sync::{Mutex, PoisonError};

/// The shared state of the plugin files, as of the last check of the directory.
#[derive(Debug, Default)]
pub struct Reports(Mutex<Known>);

/// The state of the plugin files, as of the last check of the directory.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The state of each file in the plugins directory.
    pub plugins: Vec<Report>,
    /// Why the directory cannot be read, if it cannot.
    pub directory_error: Option<String>,
    /// Whether the directory has been checked at least once.
    pub looked: bool,
    /// The games in the configuration.
    pub games: Vec<Game>,
}

impl Reports {
    /// Returns the state as of the last check.
    #[must_use]
    pub fn get(&self) -> Known {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, known: Known) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }
}

impl Known {
    /// Returns why the gateway is not ready, as far as its plugins are the cause. There are two causes: no plugin
    /// serves, or a file that existed at the start has not been in use yet.
    ///
    /// A file that turns bad later is not a cause, because a gateway that serves should stay in its load balancer.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for file in self.plugins.iter().filter(|file| file.awaited) {
            let name = &file.file;
            match &file.error {
                Some(error) => reasons.push(format!("{name}: {error}")),
                None if file.compiling => reasons.push(format!("compiling {name}")),
                None => reasons.push(format!("starting {name}")),
            }
        }
        if reasons.is_empty() && self.plugins.iter().all(|file| file.serving.is_none()) {
            reasons.push(self.why_none_serves());
        }
        reasons
    }

    fn why_none_serves(&self) -> String {
        if !self.looked {
            return "the plugins directory has not been read yet".to_owned();
        }
        if let Some(error) = &self.directory_error {
            return error.clone();
        }
        if self.plugins.is_empty() {
            return "the plugins directory holds no .wasm file".to_owned();
        }
        let errors = self.plugins.iter().filter_map(|file| Some(format!("{}: {}", file.file, file.error.as_ref()?)));
        format!("no plugin serves ({})", errors.collect::<Vec<_>>().join("; "))
    }
}
