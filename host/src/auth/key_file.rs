//! The key set in a file, which is read again when the file changes.

use super::{
    key_set::{KeySet, MAX_BYTES},
    loaded::Loaded,
};
use crate::{
    file,
    reload::watched::{Look, Stamp, Watched},
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{task, time};

/// The time between two checks of the file.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// A key set in a file.
#[derive(Debug)]
pub(super) struct KeyFile {
    pub(super) path: PathBuf,
    pub(super) loaded: Loaded,
    watched: Mutex<Watched>,
}

impl KeyFile {
    /// Reads the file.
    pub(super) fn open(path: &Path) -> Self {
        let loaded = Loaded::new(format!("auth.jwks_file {}", path.display()));
        let file = Self { path: path.to_owned(), loaded, watched: Mutex::default() };
        {
            let mut watched = file.watched.lock().unwrap_or_else(PoisonError::into_inner);
            // An error shows again when the file is read.
            let stamp = Stamp::of(path).unwrap_or(Stamp::Absent);
            watched.look(stamp.clone());
            file.load(&mut watched, stamp);
        }
        file
    }

    /// Follows the file. Never returns.
    pub(super) async fn follow(self: Arc<Self>) {
        loop {
            time::sleep(CHECK_INTERVAL).await;
            let file = Arc::clone(&self);
            // A read may wait for a network file system. An error means that the process ends.
            let _ = task::spawn_blocking(move || file.look()).await;
        }
    }

    fn look(&self) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        match Stamp::of(&self.path) {
            Ok(stamp) => match watched.look(stamp.clone()) {
                Look::Changed => self.load(&mut watched, stamp),
                // The file may have been away, or another one in its place, and now it is back.
                Look::Same if watched.is_taken() => self.loaded.restored(),
                Look::Same | Look::Unsettled => {}
            },
            Err(error) => self.loaded.record(Err(error)),
        }
    }

    /// Reads the file. A file that is not valid may be half written without a change of its stamp, so it is read again
    /// after a pause.
    fn load(&self, watched: &mut Watched, stamp: Stamp) {
        let outcome = read(&self.path);
        match outcome {
            Ok(_) => watched.take(stamp),
            Err(_) => watched.failed(),
        }
        self.loaded.record(outcome);
    }
}

/// Reads the key set in a file.
///
/// # Errors
/// Returns why the file has no key set.
pub(super) fn read(path: &Path) -> Result<KeySet, String> {
    let bytes = file::read(path, MAX_BYTES as u64).map_err(|error| error.to_string())?;
    KeySet::parse(&bytes).map_err(|error| error.to_string())
}
