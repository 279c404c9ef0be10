//! Finds the unknown keys of a file, and the known ones without a value. Each error names the line, and the error of an
//! unknown key also names a similar one that is known.

use super::raw;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::Value;
use std::fmt;

/// The maximum number of errors of one file that are listed.
pub(super) const MAX_ERRORS: usize = 20;

/// The similarity from which on a known key is proposed for an unknown one, between 0 and 1. Mistyped keys are above 0.9,
/// and keys that have nothing in common below 0.7.
const MIN_SIMILARITY: f64 = 0.7;

/// A step on the path to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// Returns one line for each unknown key of the file, and for each key without a value. YAML reads such a key as null,
/// which would switch off what the key stands for, for example the section `auth`.
pub(super) fn wrong(text: &str, file: &Value) -> Vec<String> {
    let mut found = Wrong { text, path: Vec::new(), errors: Vec::new() };
    found.section::<raw::File>(file, |found, file| {
        found.key(file, "server", |found, server| {
            found.section::<raw::Server>(server, |found, server| {
                found.key(server, "tls", Wrong::leaf::<raw::Tls>);
                found.key(server, "reconnect", Wrong::leaf::<raw::Reconnect>);
            });
        });
        found.key(file, "admin", Wrong::leaf::<raw::Admin>);
        found.key(file, "auth", Wrong::leaf::<raw::Auth>);
        found.key(file, "redis", |found, redis| {
            found.section::<raw::Redis>(redis, |found, redis| {
                found.key(redis, "sentinel", Wrong::leaf::<raw::Sentinel>);
                found.key(redis, "cluster", Wrong::leaf::<raw::Cluster>);
            });
        });
        found.key(file, "limits", Wrong::leaf::<raw::Limits>);
        found.key(file, "resume", Wrong::leaf::<raw::Resume>);
        found.key(file, "traces", Wrong::leaf::<raw::Traces>);
        found.key(file, "games", |found, games| {
            for (i, game) in games.as_sequence().into_iter().flatten().enumerate() {
                found.step(Step::Index(i), game, |found, game| {
                    found.section::<raw::Game>(game, |found, game| {
                        found.key(game, "chat_backend", Wrong::leaf::<raw::Backend>);
                        found.key(game, "backends", Wrong::named::<raw::Backend>);
                    });
                });
            }
        });
        found.key(file, "plugins", |found, plugins| {
            found.section::<raw::Plugins>(plugins, |found, plugins| {
                found.key(plugins, "settings", Wrong::named::<raw::PluginSettings>);
            });
        });
    });
    found.errors
}

struct Wrong<'a> {
    text: &'a str,
    path: Vec<Step>,
    errors: Vec<String>,
}

impl Wrong<'_> {
    fn step(&mut self, step: Step, value: &Value, inside: impl FnOnce(&mut Self, &Value)) {
        self.path.push(step);
        inside(self, value);
        self.path.pop();
    }

    fn key(&mut self, section: &Value, key: &str, inside: impl FnOnce(&mut Self, &Value)) {
        if let Some(value) = section.get(key) {
            self.step(Step::Key(key.to_owned()), value, inside);
        }
    }

    fn leaf<T: for<'de> de::Deserialize<'de>>(&mut self, section: &Value) {
        self.section::<T>(section, |_, _| {});
    }

    /// Checks sections with names that the operator has chosen.
    fn named<T: for<'de> de::Deserialize<'de>>(&mut self, sections: &Value) {
        for (name, section) in sections.as_mapping().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            if section.is_null() {
                self.report_empty(name);
            }
            self.step(Step::Key(name.to_owned()), section, Self::leaf::<T>);
        }
    }

    fn section<T: for<'de> de::Deserialize<'de>>(&mut self, section: &Value, inside: impl FnOnce(&mut Self, &Value)) {
        let known = fields::<T>();
        for (key, value) in section.as_mapping().into_iter().flatten() {
            let key = key.as_str().unwrap_or("(not a string)");
            if !known.contains(&key) {
                self.report(key, |path| {
                    let hint = nearest(key, known).map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
                    format!("unknown key `{path}`{hint} (known here: {})", known.join(", "))
                });
            } else if value.is_null() {
                self.report_empty(key);
            }
        }
        inside(self, section);
    }

    fn report_empty(&mut self, key: &str) {
        self.report(key, |path| format!("`{path}` is empty: write what belongs to it, or remove it"));
    }

    fn report(&mut self, key: &str, error: impl FnOnce(&str) -> String) {
        if self.errors.len() >= MAX_ERRORS {
            // The error is counted, but its line is not looked up, because each look-up parses the file again.
            self.errors.push(String::new());
            return;
        }
        self.path.push(Step::Key(key.to_owned()));
        let line = line(self.text, &self.path).map_or_else(String::new, |line| format!("line {line}: "));
        let path = shown(&self.path);
        self.path.pop();
        self.errors.push(format!("{line}{}", error(&path)));
    }
}

/// Returns the path as an operator writes it.
pub(super) fn shown(path: &[Step]) -> String {
    let mut shown = String::new();
    for step in path {
        match step {
            Step::Key(key) if shown.is_empty() => shown.push_str(key),
            Step::Key(key) => shown = format!("{shown}.{key}"),
            Step::Index(i) => shown = format!("{shown}[{i}]"),
        }
    }
    shown
}

/// Returns whether a path, as it is shown, is that of a key or leads into it.
pub(super) fn is_within(path: &str, key: &str) -> bool {
    path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Returns the known key that is most similar, if one is similar at all.
pub(super) fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = |known: &str| strsim::jaro_winkler(known, key);
    known.iter().copied().filter(|known| near(known) >= MIN_SIMILARITY).max_by(|a, b| near(a).total_cmp(&near(b)))
}

/// Returns the names of a struct's fields. The struct's `Deserialize` passes these names to the deserializer.
pub(super) fn fields<T: for<'de> de::Deserialize<'de>>() -> &'static [&'static str] {
    struct Ask<'a>(&'a mut &'static [&'static str]);
    impl<'de> Deserializer<'de> for Ask<'_> {
        type Error = de::value::Error;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            _visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            Err(de::Error::custom("only asked"))
        }

        fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("not a struct"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
            seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut fields: &'static [&'static str] = &[];
    // `Ask` always returns an error.
    let _ = T::deserialize(Ask(&mut fields));
    fields
}

/// Returns the line of the last key of the path, or `None` if the text is empty. The parser walks to the key and fails
/// there, because only an error has a line number.
pub(super) fn line(text: &str, path: &[Step]) -> Option<usize> {
    if text.is_empty() {
        return None;
    }
    let error = Walk(path).deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    error.location().map(|location| location.line())
}

#[derive(Clone, Copy)]
struct Walk<'a>(&'a [Step]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a section or a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Key(wanted), rest)) = self.0.split_first() else { return Ok(()) };
        while let Some(is_wanted) = map.next_key_seed(Key { wanted, last: rest.is_empty() })? {
            if is_wanted {
                return map.next_value_seed(Walk(rest));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((Step::Index(wanted), rest)) = self.0.split_first() else { return Ok(()) };
        for _ in 0..*wanted {
            seq.next_element::<IgnoredAny>()?;
        }
        seq.next_element_seed(Walk(rest)).map(|_| ())
    }
}

struct Key<'a> {
    wanted: &'a str,
    last: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        match key == self.wanted {
            true if self.last => Err(E::custom("found")),
            is_wanted => Ok(is_wanted),
        }
    }
}
