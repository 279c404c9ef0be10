//! The directory that keeps compiled code from one start of the gateway to the next. With it, a plugin of 20 MB serves
//! within a second of a restart.
//!
//! Code from this directory is executed, so only this user may be able to write to the directory.

use rustix::process::geteuid;
use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// The maximum size of the cache, in bytes. Compiled code is stored compressed, and is then about as large as the
/// component.
const MAX_BYTES: u64 = 1 << 30;

/// How long an unfinished file may stay in the cache. An older unfinished file is abandoned, and is removed.
const MAX_WRITE: Duration = Duration::from_secs(600);

/// The beginning of the file extension while a file is being written.
const UNFINISHED: &str = "wip-";

/// A directory for compiled code.
#[derive(Debug)]
pub struct CacheDirectory {
    path: PathBuf,
    /// Whether the directory is removed when this value is dropped.
    temporary: bool,
}

impl CacheDirectory {
    /// Opens the directory `wanted`, or this user's own cache directory if `wanted` is `None`. If the directory cannot
    /// be used, creates a temporary directory and logs a warning.
    ///
    /// # Errors
    /// Returns an error if `wanted` cannot be made an absolute path, or if the temporary directory cannot be created.
    pub fn open(wanted: Option<&Path>) -> io::Result<Self> {
        let path = wanted.map(std::path::absolute).transpose()?.or_else(of_user);
        let why = match path.as_deref().map(|path| private(path).map(|()| path.to_owned())) {
            Some(Ok(path)) => return Ok(Self { path, temporary: false }),
            Some(Err(error)) => error.to_string(),
            None => "the environment has neither XDG_CACHE_HOME nor HOME".to_owned(),
        };
        let path_of_process = env::temp_dir().join(format!("gateway-{:016x}", rand::random::<u64>()));
        fs::DirBuilder::new().mode(0o700).create(&path_of_process)?;
        let cache = path.unwrap_or_default();
        tracing::warn!(
            cache = %cache.display(),
            "compiled code cannot be kept for the next start: {why}; set plugins.cache_directory to a directory that \
             only this user can write to"
        );
        Ok(Self { path: path_of_process, temporary: true })
    }

    /// Returns the path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for CacheDirectory {
    fn drop(&mut self) {
        if self.temporary {
            // If this fails, the remaining files lie in the system's directory for temporary files.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Returns this user's own cache directory, if the environment names one.
fn of_user() -> Option<PathBuf> {
    let absolute = |key| env::var_os(key).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("gateway"))
}

/// Creates the directory if it does not exist, and checks that no other user can write to it. The code in it is executed.
///
/// # Errors
/// Returns an error if the directory cannot be created or looked at, or if another user can write to it.
pub(super) fn check(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let meta = fs::metadata(path)?;
    if meta.uid() != geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        return Err(io::Error::other("other users can write to it"));
    }
    Ok(())
}

/// Checks that this user, and no other, can write to the directory.
fn private(path: &Path) -> io::Result<()> {
    check(path)?;
    let probe = path.join(format!(".probe-{:016x}", rand::random::<u64>()));
    fs::File::create_new(&probe)?;
    fs::remove_file(probe)
}

/// Removes the files of the directory that were written longest ago, until the other files fit into the maximum size.
pub(super) fn sweep(directory: &Path) {
    if let Err(error) = sweep_to(directory, MAX_BYTES, SystemTime::now()) {
        tracing::debug!(%error, cache = %directory.display(), "the cache of compiled code cannot be swept");
    }
}

fn sweep_to(directory: &Path, max_bytes: u64, now: SystemTime) -> io::Result<()> {
    let mut files = Vec::new();
    list(directory, &mut files)?;
    files.sort_by_key(|(written, ..)| std::cmp::Reverse(*written));
    let mut kept = 0;
    for (written, bytes, path) in files {
        let unfinished = path.extension().is_some_and(|end| end.to_string_lossy().starts_with(UNFINISHED));
        let abandoned = unfinished && now.duration_since(written).is_ok_and(|age| age > MAX_WRITE);
        kept += bytes;
        if abandoned || (kept > max_bytes && !unfinished) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn list(directory: &Path, files: &mut Vec<(SystemTime, u64, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            list(&entry.path(), files)?;
        } else {
            files.push((meta.modified()?, meta.len(), entry.path()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn sweep_removes_the_oldest_and_abandoned_files_and_keeps_recent_unfinished_files() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        fs::create_dir(folder.path().join("modules")).unwrap();
        let put = |name: &str, age: u64| {
            let path = folder.path().join("modules").join(name);
            fs::write(&path, [0; 10]).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(now - Duration::from_secs(age)).unwrap();
        };
        for (name, age) in [("new", 1), ("older", 5), ("oldest", 9), ("a.wip-x", 2), ("b.wip-x", 601)] {
            put(name, age);
        }
        sweep_to(folder.path(), 30, now).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(folder.path().join("modules")).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a.wip-x", "new", "older"]);
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let opened = CacheDirectory::open(Some(&cache)).unwrap();
        assert_eq!((opened.path(), fs::metadata(&cache).unwrap().mode() & 0o777), (cache.as_path(), 0o700));
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o770)).unwrap();
        let other = CacheDirectory::open(Some(&cache)).unwrap();
        let path = other.path().to_owned();
        assert!(path != cache && path.is_dir(), "{}", path.display());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        drop(other);
        assert!(!path.exists());
    }
}
