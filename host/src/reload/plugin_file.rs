//! A plugin file: which files of the directory are plugins, and how one is read, judged and compiled.

use crate::{
    file::{self, Unreadable},
    plugin::Described,
    reload::{
        judge::{self, Cancel, Failure, Loader, Priority},
        watched::Stamp,
    },
};
use sha2::{Digest as _, Sha256};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// Lists the plugin files of a directory.
pub(super) fn wasm_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if is_plugin_file(&path) {
            files.push(path);
        }
    }
    Ok(files)
}

/// Returns whether the file name is that of a plugin: it ends in `.wasm` and does not begin with a dot.
pub(super) fn is_plugin_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "wasm") && !file_name(path).starts_with('.')
}

/// Returns the name of a file without its directory.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The SHA-256 of a file's bytes.
pub(super) type Digest = [u8; 32];

/// The outcome of loading a file.
pub(super) enum Loaded {
    /// The file has the same bytes as before.
    Same,
    /// The file is a plugin. The duration is the time that judging and compiling took.
    Plugin(Digest, Arc<Described>, Duration),
    /// The file is rejected for this reason. If there is no digest, the same bytes are tried again when the file's
    /// stamp changes.
    Rejected(Option<Digest>, String),
    /// Loading has to be tried again, or was cancelled.
    Failed(Failure),
}

/// Reads, judges and compiles the file, which had the given stamp when the load began. `known` is the digest of the bytes
/// that were loaded last.
pub(super) fn load(
    loader: &Loader,
    (path, stamp): (&Path, &Stamp),
    known: Option<Digest>,
    priority: Priority,
    cancel: &Cancel,
) -> Loaded {
    let read = file::read(path, judge::MAX_FILE_BYTES);
    // What was read may be parts of two versions. The next check finds the new one.
    if Stamp::of(path).ok().as_ref() != Some(stamp) {
        return Loaded::Failed(Failure::Cancelled);
    }
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(error @ (Unreadable::NotRegular | Unreadable::TooLarge { .. })) => {
            return Loaded::Rejected(None, error.to_string());
        }
        Err(error) => return Loaded::Failed(Failure::Retry(error.to_string())),
    };
    let digest = Sha256::digest(&bytes).into();
    if known == Some(digest) {
        return Loaded::Same;
    }
    tracing::info!(file = file_name(path), "compiling");
    let began = Instant::now();
    match loader.load(&bytes, priority, cancel) {
        Ok(described) => Loaded::Plugin(digest, Arc::new(described), began.elapsed()),
        Err(Failure::Rejected(why)) => Loaded::Rejected(Some(digest), why),
        // The digest is left out, so that the file is tried again after a `touch`.
        Err(Failure::Ended(why)) => Loaded::Rejected(None, why),
        Err(failure) => Loaded::Failed(failure),
    }
}
