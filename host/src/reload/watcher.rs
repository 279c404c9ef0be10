//! The operating system's events about files. An event only requests a check of the files, and only if it concerns a
//! plugin file or gateway.yaml.

use crate::reload::{
    catalog::Done,
    inbox::{Inbox, MAX_CHECK_INTERVAL},
    plugin_file::is_plugin_file,
};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Requests a check of the files whenever a plugin file or gateway.yaml changes, until the returned watcher is dropped.
/// Returns `None` if the system sends no events. The files are then checked only every [`MAX_CHECK_INTERVAL`].
///
/// The directories are watched and not the files, because the watch on a file is lost when the file is replaced.
pub(super) fn watch(plugins: &Path, config: &Path, inbox: Arc<Inbox<Done>>) -> Option<RecommendedWatcher> {
    let parent = config.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    let ours =
        Ours { plugins: absolute(plugins), parent: absolute(&parent), config: config.file_name().map(Into::into) };
    let watching = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error may mean that the system's queue has overflowed and events were lost, so an error requests a check
        // as well.
        if event.as_ref().map_or(true, |event| ours.concerns(event)) {
            inbox.look();
        }
    });
    let watched = watching.and_then(|mut watcher| {
        watcher.watch(plugins, RecursiveMode::NonRecursive)?;
        watcher.watch(&parent, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watched
        .map_err(|error| {
            tracing::warn!(
                %error,
                "the system sends no file events: files are checked every {MAX_CHECK_INTERVAL:?} instead"
            );
        })
        .ok()
}

/// The files on which an event requests a check.
struct Ours {
    plugins: PathBuf,
    parent: PathBuf,
    config: Option<OsString>,
}

impl Ours {
    fn concerns(&self, event: &notify::Event) -> bool {
        // A check accesses the files itself, so an access event would cause endless checks.
        !event.kind.is_access() && (event.paths.is_empty() || event.paths.iter().any(|path| self.includes(path)))
    }

    fn includes(&self, path: &Path) -> bool {
        let (is_plugin, is_config) = (is_plugin_file(path), path.file_name() == self.config.as_deref());
        // Resolving a directory takes system calls, and most events of a busy file are about another name.
        if !is_plugin && !is_config {
            return false;
        }
        let directory = path.parent().map(absolute).unwrap_or_default();
        directory == self.plugins && is_plugin || directory == self.parent && is_config
    }
}

/// Resolves a path, because an event may spell the same path differently than the configuration does. Returns a path
/// unchanged if it cannot be resolved.
fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::{Event, EventKind, event::AccessKind};

    #[test]
    fn only_changes_of_plugin_files_and_of_the_configuration_request_a_check() {
        let folder = tempfile::tempdir().unwrap();
        let plugins = folder.path().join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        let ours =
            Ours { plugins: absolute(&plugins), parent: absolute(folder.path()), config: Some("gateway.yaml".into()) };
        let requests_check = |path: PathBuf| ours.concerns(&Event::new(EventKind::Any).add_path(path));
        assert!(requests_check(plugins.join("chat.wasm")) && requests_check(folder.path().join("gateway.yaml")));
        for other in [
            "plugins/gateway.log",
            "plugins/.chat.wasm.new",
            "plugins/.chat.wasm",
            "gateway.log",
            "chat.wasm",
            "plugins",
        ] {
            assert!(!requests_check(folder.path().join(other)), "{other}");
        }
        let access = Event::new(EventKind::Access(AccessKind::Any)).add_path(plugins.join("chat.wasm"));
        assert!(!ours.concerns(&access));
        assert!(ours.concerns(&Event::new(EventKind::Other)), "events were lost");
    }
}
