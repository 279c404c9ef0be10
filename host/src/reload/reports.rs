//! What operators may know of the files.

use crate::{config::Game, reload::catalog::Report};
use std::sync::{Mutex, PoisonError};

/// What operators may know of the files, as of the last look.
#[derive(Debug, Default)]
pub struct Reports(Mutex<Known>);

/// As of the last look.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// What became of each file of the plugins directory.
    pub plugins: Vec<Report>,
    /// Why the directory cannot be read now.
    pub directory_error: Option<String>,
    /// Whether the directory was looked at.
    pub looked: bool,
    /// The games.
    pub games: Vec<Game>,
}

impl Reports {
    /// As of the last look.
    #[must_use]
    pub fn get(&self) -> Known {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, known: Known) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }
}

impl Known {
    /// Why the gateway is not ready, as far as its plugins are concerned: none serves, or a file that was there at the start was
    /// not in use yet. A file that turns bad later is reported, but does not take a gateway that serves out of its load balancer.
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
            return "the plugins directory was not looked at yet".to_owned();
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
