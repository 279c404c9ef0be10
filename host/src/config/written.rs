//! Everything that is written: the file, and the environment variables that set keys in its place.

use super::{
    environment::{self, Environment, Setting},
    keys, raw, secret, yaml,
};
use serde_yaml::Value;

/// What is written, before it is resolved.
pub(super) struct Written<'t> {
    /// The text of the file.
    pub(super) text: &'t str,
    /// The values of the file.
    pub(super) value: Value,
    /// The keys that environment variables set.
    pub(super) settings: Vec<Setting>,
    /// The values that take effect.
    pub(super) file: raw::File,
}

impl<'t> Written<'t> {
    /// Reads the file and the variables. Adds a line to `errors` for each error. Returns `None` if nothing can be made of
    /// them.
    pub(super) fn read(text: &'t str, environment: &Environment, errors: &mut Vec<String>) -> Option<Self> {
        let value = match yaml::parse(text) {
            Ok(value) => value,
            Err(error) => {
                errors.push(error);
                return None;
            }
        };
        errors.append(&mut keys::wrong(text, &value));
        // An empty file is a file of defaults.
        let file = if value.is_null() { Ok(raw::File::default()) } else { serde_yaml::from_str(text) };
        let settings = environment.settings(errors);
        let file = file
            .map_err(|error| secret::without_value(&error.to_string()))
            .and_then(|file| environment::apply(file, &settings));
        match file {
            Ok(file) => Some(Self { text, value, settings, file }),
            Err(error) => {
                errors.push(error);
                None
            }
        }
    }
}

/// Returns what is written for `admin.listen`, or its default. Everything else may be wrong, even the YAML.
pub(super) fn admin_listen(text: &str, environment: &Environment) -> String {
    let file: Value = serde_yaml::from_str(text).unwrap_or_default();
    let mut listen = file.get("admin").and_then(|admin| admin.get("listen")?.as_str()).map(str::to_owned);
    for Setting { path, typed, .. } in environment.settings(&mut Vec::new()) {
        listen = match &*keys::shown(&path) {
            "admin" => typed["listen"].as_str().map(str::to_owned),
            "admin.listen" => typed.as_str().map(str::to_owned),
            _ => listen,
        };
    }
    listen.unwrap_or_else(|| raw::Admin::default().listen)
}
