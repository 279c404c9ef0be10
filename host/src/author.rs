//! What plugin authors use: `gateway plugin new`, `gateway plugin check` and `gateway plugin test`. No gateway runs for any.

mod check;
mod new;
mod vectors;

pub use check::{Sample, check};
pub use new::{Language, Name, NewPlugin, new};
pub use vectors::test;

use crate::{
    config::Config,
    plugin::{Compiler, Described, Settings},
};
use anyhow::{Context, anyhow};
use std::{fs, path::Path};

/// Loads a file as a gateway would.
fn load(path: &Path) -> anyhow::Result<Described> {
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let compiler = Compiler::new().map_err(|error| anyhow!("this machine cannot run WebAssembly: {error:#}"))?;
    Described::load(&compiler, &bytes).map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// The plugin's settings in a configuration, or the defaults.
fn settings(described: &Described, config: Option<&Config>) -> Settings {
    let defaults = Config::default();
    config.unwrap_or(&defaults).plugin(&described.name, &described.routes)
}
