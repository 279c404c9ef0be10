//! The configuration as it takes effect, as YAML in which each value has its origin beside it.

use super::{
    environment::Setting,
    keys::{self, Step},
    secret,
    written::Written,
};
use serde_yaml::{Mapping, Value};
use std::{fmt::Write, path::Path};

/// The keys whose values are never shown.
const SECRETS: [&str; 5] =
    ["admin.token", "auth.jwt_secret", "redis.password", "redis.sentinel.password", "traces.headers"];

/// The keys whose values are addresses, also those without a scheme.
const ADDRESSES: [&str; 3] = ["redis.addr", "redis.cluster.addrs", "redis.sentinel.addrs"];

/// Returns the configuration. `path` is the file's name in the origins.
pub(super) fn show(written: &Written<'_>, path: &Path) -> String {
    let file = serde_yaml::to_value(&written.file).unwrap_or_default();
    let mut shown = Shown { written, path, text: String::new(), at: Vec::new() };
    shown.section(file.as_mapping().unwrap_or(&Mapping::new()));
    shown.text
}

struct Shown<'a> {
    written: &'a Written<'a>,
    path: &'a Path,
    text: String,
    /// The path of the key that is being shown.
    at: Vec<Step>,
}

impl Shown<'_> {
    fn section(&mut self, section: &Mapping) {
        for (key, value) in section {
            let key = key.as_str().unwrap_or_default();
            self.at.push(Step::Key(key.to_owned()));
            self.key(key, value, section);
            self.at.pop();
        }
    }

    fn key(&mut self, key: &str, value: &Value, section: &Mapping) {
        let indent = "  ".repeat(self.at.len() - 1);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        let name = if key.chars().all(is_plain) { key.to_owned() } else { format!("{key:?}") };
        let shown = match value {
            _ if section.get(format!("{key}_file")).is_some_and(|file| !file.is_null()) => {
                format!("# {name}: in {name}_file")
            }
            Value::Null => format!("# {name}: not set"),
            // The settings of plugins may hold secrets, and the host does not know which.
            Value::Mapping(map) if self.is_config_of_plugin() => {
                let value = if map.is_empty() { "{}" } else { "\"(hidden)\"" };
                format!("{name}: {value}  # {}", self.origin())
            }
            Value::Mapping(map) if !map.is_empty() => {
                // Writing into a String cannot fail, here and below.
                let _ = writeln!(self.text, "{indent}{name}:");
                return self.section(map);
            }
            value if self.is_secret() && value.as_str() != Some("") => {
                format!("{name}: \"(hidden)\"  # {}", self.origin())
            }
            value => {
                let value = serde_json::to_string(&self.without_secrets(value)).unwrap_or_default();
                format!("{name}: {value}  # {}", self.origin())
            }
        };
        let _ = writeln!(self.text, "{indent}{shown}");
    }

    fn is_secret(&self) -> bool {
        SECRETS.contains(&&*keys::shown(&self.at))
    }

    /// Returns the value without what may be secret in its addresses and URLs.
    fn without_secrets(&self, value: &Value) -> Value {
        match value {
            Value::String(text) if text.contains("://") || ADDRESSES.contains(&&*keys::shown(&self.at)) => {
                Value::from(secret::without_secrets(text))
            }
            Value::Sequence(values) => values.iter().map(|value| self.without_secrets(value)).collect(),
            value => value.clone(),
        }
    }

    fn is_config_of_plugin(&self) -> bool {
        let key = |i: usize| match self.at.get(i) {
            Some(Step::Key(key)) => key.as_str(),
            _ => "",
        };
        self.at.len() == 4 && (key(0), key(1), key(3)) == ("plugins", "settings", "config")
    }

    /// Returns where the value of the key comes from.
    fn origin(&self) -> String {
        let default = || "default".to_owned();
        // A setting for a part of the value counts, too.
        let concerns = |setting: &&Setting| self.at.starts_with(&setting.path) || setting.path.starts_with(&self.at);
        match self.written.settings.iter().rev().find(concerns) {
            Some(setting) => {
                let inside = self.at.get(setting.path.len()..).unwrap_or_default();
                if has(&setting.written, inside) { setting.variable.clone() } else { default() }
            }
            None if has(&self.written.value, &self.at) => {
                let line = keys::line(self.written.text, &self.at).map_or_else(String::new, |line| format!(":{line}"));
                format!("{}{line}", self.path.display())
            }
            None => default(),
        }
    }
}

fn has(value: &Value, path: &[Step]) -> bool {
    let inside = path.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get(key.as_str()),
        Step::Index(i) => value.get(i),
    });
    inside.is_some()
}
