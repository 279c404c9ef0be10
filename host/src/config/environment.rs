//! Environment variables that set keys of gateway.yaml: `GATEWAY_REDIS__ADDR` sets `redis.addr`.

#[cfg(test)]
mod tests;

use super::{
    keys::{self, Step},
    raw, secret,
    shape::{self, Shape},
    yaml,
};
use serde_yaml::{Mapping, Value};
use std::env;

/// The beginning of the names.
const PREFIX: &str = "GATEWAY_";

/// What separates the keys of a path in a name.
const LEVEL: &str = "__";

/// The environment variables whose names begin with `GATEWAY_`.
#[derive(Debug, Default)]
pub struct Environment(Vec<(String, Option<String>)>);

/// A key that a variable sets.
pub(super) struct Setting {
    /// The name of the variable.
    pub(super) variable: String,
    /// The path of the key.
    pub(super) path: Vec<Step>,
    /// The value that is written in the variable.
    pub(super) written: Value,
    /// The same value as the types read it, with the defaults of sections.
    pub(super) typed: serde_json::Value,
}

impl Environment {
    /// Returns the variables of the process.
    #[must_use]
    pub fn of_process() -> Self {
        let variables = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self::of(variables.map(|(name, value)| (name, value.into_string().ok())))
    }

    /// A value is `None` if it is not UTF-8.
    pub(super) fn of(variables: impl IntoIterator<Item = (String, Option<String>)>) -> Self {
        let is_setting = |(name, value): &(String, Option<String>)| {
            name.starts_with(PREFIX) && !is_service_link(name, value.as_deref().unwrap_or_default())
        };
        Self(variables.into_iter().filter(is_setting).collect())
    }

    /// Returns the keys that the variables set, sections before the keys in them. Adds a line to `errors` for each
    /// variable that is not valid.
    pub(super) fn settings(&self, errors: &mut Vec<String>) -> Vec<Setting> {
        let mut settings = Vec::new();
        for (name, value) in &self.0 {
            let read = value.as_deref().ok_or_else(|| vec!["its value is not UTF-8".to_owned()]);
            match read.and_then(|value| Setting::read(name, value)) {
                Ok(setting) => settings.push(setting),
                Err(whys) => errors.extend(whys.iter().map(|why| format!("{name}: {why}"))),
            }
        }
        settings.sort_by(|a, b| (a.path.len(), &a.variable).cmp(&(b.path.len(), &b.variable)));
        settings
    }
}

/// Returns whether Kubernetes sets such a variable, for a Service whose name begins with `gateway`. A name with the
/// separator of keys is never taken for one, so that no wrong value is ignored.
fn is_service_link(name: &str, value: &str) -> bool {
    if name[PREFIX.len()..].contains(LEVEL) {
        return false;
    }
    let is_address = value.contains("://");
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT") && is_address
        || ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
            let (_, end) = name.rsplit_once(protocol).unwrap_or(("", "no"));
            name.contains("_PORT_") && matches!(end, "" | "_PROTO" | "_PORT" | "_ADDR")
        })
}

impl Setting {
    fn read(name: &str, value: &str) -> Result<Self, Vec<String>> {
        let lower = name[PREFIX.len()..].to_ascii_lowercase();
        let keys: Vec<_> = lower.split(LEVEL).collect();
        let written = match shape::at(&keys) {
            Shape::Text => Value::String(value.to_owned()),
            Shape::Yaml => value_of(value).map_err(|why| vec![why])?,
            Shape::Unknown { depth, known } => return Err(vec![unknown(&keys, depth, known)]),
        };
        let mut nested = written.clone();
        for key in keys.iter().rev() {
            nested = Value::Mapping(Mapping::from_iter([(Value::from(*key), nested)]));
        }
        let wrong = keys::wrong("", &nested);
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let typed = typed(&nested, &keys).map_err(|why| vec![why])?;
        let path = keys.iter().map(|key| Step::Key((*key).to_owned())).collect();
        Ok(Self { variable: name.to_owned(), path, written, typed })
    }
}

fn value_of(text: &str) -> Result<Value, String> {
    match yaml::parse(text) {
        Ok(Value::Null) => Err("it is empty: write a value into it, or remove the variable".to_owned()),
        Ok(value) => Ok(value),
        Err(error) => Err(format!("its value cannot be read: {error}")),
    }
}

/// Reads a file that has only this value, and returns the value as its type reads it.
fn typed(nested: &Value, keys: &[&str]) -> Result<serde_json::Value, String> {
    // Only an error in a text names the key.
    let text = serde_yaml::to_string(nested).map_err(|error| error.to_string())?;
    let file = serde_yaml::from_str::<raw::File>(&text).map_err(|error| {
        let error = secret::without_value(&error.to_string());
        error.rsplit_once(" at line ").map_or(&*error, |(error, _)| error).to_owned()
    })?;
    let file = serde_json::to_value(file).map_err(|error| error.to_string())?;
    Ok(keys.iter().fold(file, |mut value, key| value[*key].take()))
}

fn unknown(keys: &[&str], depth: usize, known: &[&str]) -> String {
    let (before, path) = (&keys[..depth], keys[..=depth].join("."));
    let variable = |key: &str| format!("{PREFIX}{}", [before, &[key]].concat().join(LEVEL).to_ascii_uppercase());
    // The most frequent mistake is one underscore between two keys.
    let one_underscore = known.iter().find_map(|section| {
        let rest = keys[depth].strip_prefix(section)?.strip_prefix('_')?;
        let below = [before, &[section, rest], &keys[depth + 1..]].concat();
        (!matches!(shape::at(&below), Shape::Unknown { .. }))
            .then(|| format!("{PREFIX}{}", below.join(LEVEL).to_ascii_uppercase()))
    });
    let hint = one_underscore
        .or_else(|| keys::nearest(keys[depth], known).map(variable))
        .map_or_else(String::new, |hint| format!(", did you mean {hint}?"));
    format!("unknown key `{path}`{hint} (known here: {})", known.join(", "))
}

/// Returns the file with these settings in the place of its own values.
pub(super) fn apply(file: raw::File, settings: &[Setting]) -> Result<raw::File, String> {
    if settings.is_empty() {
        return Ok(file);
    }
    let mut value = serde_json::to_value(file).map_err(|error| error.to_string())?;
    for setting in settings {
        let mut place = &mut value;
        for step in &setting.path {
            let Step::Key(key) = step else { continue };
            if !place.is_object() {
                *place = serde_json::json!({});
            }
            place = &mut place[key];
        }
        *place = setting.typed.clone();
    }
    serde_json::from_value(value).map_err(|error| secret::without_value(&error.to_string()))
}

/// Says in the errors which variable has set the key that is wrong, or which ones have set parts of the section.
pub(super) fn name_variables(settings: &[Setting], errors: &mut [String]) {
    for error in errors {
        let Some((key, _)) = error.split_once(": ") else { continue };
        let is_set = |setting: &&Setting| keys::is_within(key, &keys::shown(&setting.path));
        let is_part = |setting: &&Setting| keys::is_within(&keys::shown(&setting.path), key);
        if let Some(variable) = settings.iter().rev().find(is_set).map(|setting| &setting.variable) {
            *error = format!("{error} ({variable} sets it)");
            continue;
        }
        let parts: Vec<_> = settings.iter().filter(is_part).map(|setting| &*setting.variable).collect();
        if !parts.is_empty() {
            *error = format!("{error} (set in part by {})", parts.join(", "));
        }
    }
}
