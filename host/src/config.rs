//! The configuration: the file gateway.yaml and the environment variables over it become a [`Config`], or a list of
//! everything that is wrong with them.
//!
//! `raw` holds the file as it is written. `environment` reads the variables, and `shape` asks the types of `raw` what
//! they expect. `effective` shows what takes effect, and its origin. `settings` holds the meaning of the file, with types,
//! units and defaults. `resolve` turns the raw file into settings and checks ranges. `yaml` finds duplicate keys, tags,
//! and aliases that multiply values, and `keys` finds unknown keys. No other module reads the file's text or checks
//! its values again.
//!
//! This folder may use `file` to read gateway.yaml. It may use `delivery`, `plugin` and `traces` for the types of their
//! settings.

mod auth;
mod effective;
mod environment;
mod keys;
mod origins;
mod proxies;
mod range;
mod raw;
mod redis;
mod resolve;
mod secret;
mod settings;
mod shape;
mod streams;
#[cfg(test)]
mod tests;
mod traces;
mod url;
mod written;
mod yaml;

pub use auth::Auth;
pub use environment::Environment;
pub use origins::Origins;
pub use proxies::Proxies;
pub use settings::{
    Admin, CompileLimits, Config, ConfigError, Game, Reconnect, Redis, RedisPlace, Resume, Server, Tls,
};
pub use streams::Streams;

use crate::file;
use keys::MAX_ERRORS;
use std::{net::SocketAddr, path::Path};
use written::Written;

/// The maximum size of the file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

impl Default for Config {
    /// Returns the configuration of an empty file.
    fn default() -> Self {
        resolve::resolve(raw::File::default(), &mut Vec::new())
    }
}

impl Config {
    /// Reads and parses a file, with the environment variables of the process over it.
    ///
    /// # Errors
    /// Returns a [`ConfigError`] with everything that is wrong.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse_file(path, &Self::text(path)?)
    }

    /// Reads a file, and returns the configuration that takes effect as YAML, in which each value has its origin beside
    /// it. Secrets are hidden.
    ///
    /// # Errors
    /// Returns a [`ConfigError`] with everything that is wrong.
    pub fn effective(path: &Path) -> Result<String, ConfigError> {
        let text = Self::text(path)?;
        Self::parse_file(path, &text)?;
        Self::show(path, &text, &Environment::of_process()).map_err(|errors| ConfigError::new(path, errors))
    }

    /// Reads the address of the admin listener from a file, whatever else is wrong with the file: a gateway goes on
    /// with its configuration if the file is changed to a wrong one.
    ///
    /// # Errors
    /// Returns a [`ConfigError`] if the file cannot be read, or if the address is wrong.
    pub fn admin_listen(path: &Path) -> Result<SocketAddr, ConfigError> {
        let listen = written::admin_listen(&Self::text(path)?, &Environment::of_process());
        let mut errors = Vec::new();
        let address = resolve::address("admin.listen", &listen, listen.as_str(), &mut errors);
        if errors.is_empty() { Ok(address) } else { Err(ConfigError::new(path, errors)) }
    }

    /// Reads the text of a file without parsing it. The error may be temporary.
    ///
    /// # Errors
    /// Returns a [`ConfigError`] if the file cannot be read.
    fn text(path: &Path) -> Result<String, ConfigError> {
        let fail = |error: String| ConfigError { path: path.to_owned(), errors: vec![error] };
        let bytes = file::read(path, MAX_FILE_BYTES).map_err(|error| fail(error.to_string()))?;
        String::from_utf8(bytes).map_err(|error| fail(format!("it is not UTF-8: {error}")))
    }

    /// Parses the text of the file `path`, with the environment variables of the process over it.
    ///
    /// # Errors
    /// Returns a [`ConfigError`] with everything that is wrong.
    fn parse_file(path: &Path, text: &str) -> Result<Self, ConfigError> {
        Self::parse_over(text, &Environment::of_process()).map_err(|errors| ConfigError::new(path, errors))
    }

    /// Parses the text of a file, without environment variables.
    ///
    /// # Errors
    /// Returns one line for each error.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        Self::parse_over(text, &Environment::default())
    }

    fn parse_over(text: &str, environment: &Environment) -> Result<Self, Vec<String>> {
        let mut errors = Vec::new();
        let Some(written) = Written::read(text, environment, &mut errors) else { return Err(errors) };
        let mut unresolved = Vec::new();
        let mut config = resolve::resolve(written.file, &mut unresolved);
        config.is_empty = written.value.is_null();
        environment::name_variables(&written.settings, &mut unresolved);
        errors.append(&mut unresolved);
        if errors.is_empty() {
            return Ok(config);
        }
        if config.is_empty {
            errors.insert(0, "the file is empty, so every setting has its default".to_owned());
        }
        Err(errors)
    }

    fn show(path: &Path, text: &str, environment: &Environment) -> Result<String, Vec<String>> {
        let mut errors = Vec::new();
        let written = Written::read(text, environment, &mut errors);
        written.filter(|_| errors.is_empty()).map(|written| effective::show(&written, path)).ok_or(errors)
    }
}

impl ConfigError {
    fn new(path: &Path, mut errors: Vec<String>) -> Self {
        let more = errors.len().saturating_sub(MAX_ERRORS);
        errors.truncate(MAX_ERRORS);
        if more > 0 {
            errors.push(format!("and {more} more"));
        }
        Self { path: path.to_owned(), errors }
    }
}
