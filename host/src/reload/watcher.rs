//! The system's events about files. They only say that a look is worth it, and only those about files of ours do.

use crate::reload::{
    catalog::{Done, is_plugin_file},
    inbox::{Inbox, POLL},
};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Asks for a look at the files when one of ours changes, for as long as what is returned lives. Without it the files are looked at
/// every [`POLL`].
///
/// Directories are watched, not files: a file that is replaced takes its watch with it.
pub(super) fn watch(plugins: &Path, config: &Path, inbox: Arc<Inbox<Done>>) -> Option<RecommendedWatcher> {
    let parent = config.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    let ours =
        Ours { plugins: absolute(plugins), parent: absolute(&parent), config: config.file_name().map(Into::into) };
    let watching = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error may be an overflow of the system's queue, so that events are lost.
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
        .map_err(
            |error| tracing::warn!(%error, "the system sends no events about files: looking every {POLL:?} instead"),
        )
        .ok()
}

struct Ours {
    plugins: PathBuf,
    parent: PathBuf,
    config: Option<OsString>,
}

impl Ours {
    fn concerns(&self, event: &notify::Event) -> bool {
        // To look is an access too, and would lead to the next look.
        !event.kind.is_access() && (event.paths.is_empty() || event.paths.iter().any(|path| self.includes(path)))
    }

    fn includes(&self, path: &Path) -> bool {
        let directory = path.parent().map(absolute).unwrap_or_default();
        directory == self.plugins && is_plugin_file(path)
            || directory == self.parent && path.file_name() == self.config.as_deref()
    }
}

/// Events may name a path in another way than the configuration does. One that cannot be resolved is left as it is.
fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::{Event, EventKind, event::AccessKind};

    #[test]
    fn only_changes_of_plugin_files_and_of_the_configuration_are_worth_a_look() {
        let folder = tempfile::tempdir().unwrap();
        let plugins = folder.path().join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        let ours =
            Ours { plugins: absolute(&plugins), parent: absolute(folder.path()), config: Some("gateway.yaml".into()) };
        let worth = |path: PathBuf| ours.concerns(&Event::new(EventKind::Any).add_path(path));
        assert!(worth(plugins.join("chat.wasm")) && worth(folder.path().join("gateway.yaml")));
        for other in [
            "plugins/gateway.log",
            "plugins/.chat.wasm.new",
            "plugins/.chat.wasm",
            "gateway.log",
            "chat.wasm",
            "plugins",
        ] {
            assert!(!worth(folder.path().join(other)), "{other}");
        }
        let access = Event::new(EventKind::Access(AccessKind::Any)).add_path(plugins.join("chat.wasm"));
        assert!(!ours.concerns(&access));
        assert!(ours.concerns(&Event::new(EventKind::Other)), "events were lost");
    }
}
