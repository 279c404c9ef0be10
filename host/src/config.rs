//! The configuration: the file gateway.yaml becomes a [`Config`], or a list of everything that is wrong with it.
//!
//! `raw` holds the file as it is written. `settings` holds the meaning of the file, with types, units and defaults.
//! `resolve` turns the raw file into settings and checks ranges. `duplicates` finds duplicate keys, and `keys` finds
//! unknown keys. No other module reads the file's text or checks its values again.
//!
//! This folder may use `file` to read gateway.yaml. It may use `delivery` and `plugin` for the types of their
//! settings.

mod auth;
mod duplicates;
mod keys;
mod origins;
mod proxies;
mod raw;
mod resolve;
mod settings;
mod streams;
#[cfg(test)]
mod tests;

pub use auth::Auth;
pub use origins::Origins;
pub use proxies::Proxies;
pub use settings::{
    Admin, CompileLimits, Config, ConfigError, Game, Reconnect, Redis, RedisPlace, Resume, Server, Tls,
};
pub use streams::Streams;

use crate::file;
use keys::MAX_ERRORS;
use std::path::Path;

/// The maximum size of the file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

impl Default for Config {
    /// Returns the configuration of an empty file.
    fn default() -> Self {
        resolve::resolve(raw::File::default(), &mut Vec::new())
    }
}

impl Config {
    /// Reads and parses a file.
    ///
    /// # Errors
    /// Returns a [`ConfigError`] with everything that is wrong.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse_file(path, &Self::text(path)?)
    }

    /// Reads the text of a file without parsing it. The error may be temporary.
    ///
    /// # Errors
    /// Returns a [`ConfigError`] if the file cannot be read.
    pub fn text(path: &Path) -> Result<String, ConfigError> {
        let fail = |error: String| ConfigError { path: path.to_owned(), errors: vec![error] };
        let bytes = file::read(path, MAX_FILE_BYTES).map_err(|error| fail(error.to_string()))?;
        String::from_utf8(bytes).map_err(|error| fail(format!("it is not UTF-8: {error}")))
    }

    /// Parses the text of the file `path`.
    ///
    /// # Errors
    /// Returns a [`ConfigError`] with everything that is wrong.
    pub fn parse_file(path: &Path, text: &str) -> Result<Self, ConfigError> {
        Self::parse(text).map_err(|mut errors| {
            let more = errors.len().saturating_sub(MAX_ERRORS);
            errors.truncate(MAX_ERRORS);
            if more > 0 {
                errors.push(format!("and {more} more"));
            }
            ConfigError { path: path.to_owned(), errors }
        })
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// Returns one line for each error.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        if let Some(error) = duplicates::check(text) {
            return Err(vec![error]);
        }
        let value: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| vec![error.to_string()])?;
        let mut errors = keys::wrong(text, &value);
        // An empty file is a file of defaults.
        let file = if value.is_null() { Ok(raw::File::default()) } else { serde_yaml::from_str(text) };
        match file {
            Ok(file) => {
                let config = resolve::resolve(file, &mut errors);
                if errors.is_empty() { Ok(config) } else { Err(errors) }
            }
            Err(error) => {
                errors.push(error.to_string());
                Err(errors)
            }
        }
    }
}
