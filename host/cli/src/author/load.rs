//! Loads a plugin file and its settings for the commands.

use anyhow::anyhow;
use gateway::{
    config::Config,
    file,
    plugin::{Described, Settings},
    reload::{
        cache::CacheDirectory,
        judge::{self, Cancel, Failure, Loader, Priority},
    },
};
use std::{path::Path, thread};

/// Loads a plugin file as a running gateway does: a child process compiles and judges the file.
///
/// The limits are those of the configuration, or the defaults if there is no configuration.
pub(super) fn load(path: &Path, config: Option<&Config>) -> anyhow::Result<Described> {
    let shown = path.display();
    let bytes = file::read(path, judge::MAX_FILE_BYTES).map_err(|error| anyhow!("{shown}: {error}"))?;
    let defaults = Config::default();
    let config = config.unwrap_or(&defaults);
    let cache = CacheDirectory::open(config.cache_directory.as_deref())?;
    let loader = Loader::new(cache.path(), config)?;
    let thread = thread::Builder::new().stack_size(judge::STACK_BYTES);
    let loaded = thread::scope(|scope| {
        let loading = thread.spawn_scoped(scope, || loader.load(&bytes, Priority::Low, &Cancel::default()))?;
        loading
            .join()
            .map_err(|_| anyhow!("{shown}: the gateway panicked over it, which is a defect: please report it"))
    })?;
    loaded.map_err(|failure| match failure {
        Failure::Rejected(why) | Failure::Ended(why) | Failure::Retry(why) => anyhow!("{shown}: {why}"),
        Failure::Cancelled => anyhow!("{shown}: loading was cancelled"),
    })
}

/// Returns the plugin's settings in the configuration, or the defaults if there is no configuration.
pub(super) fn settings(described: &Described, config: Option<&Config>) -> Settings {
    let defaults = Config::default();
    config.unwrap_or(&defaults).plugin(&described.name, &described.routes)
}
