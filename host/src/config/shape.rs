//! What the types of gateway.yaml expect at the path of a key.
//!
//! The types in `raw` are asked by deserializing them: each tells the deserializer what it is. So no second table of the
//! keys can differ from the types. A crate for layered configurations (`config`, `figment`) was rejected, because it
//! guesses the type from the value: the password 0123 would become the number 123.

use super::raw;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, Visitor, value},
};

/// What is expected at a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A text, or a word out of several.
    Text,
    /// A number, a truth value, a list or a section.
    Yaml,
    /// Nothing: a section on the path has only these keys, and not the one at this depth.
    Unknown {
        /// The number of keys on the path before the unknown one.
        depth: usize,
        /// The keys of the section.
        known: &'static [&'static str],
    },
}

/// Returns what is expected at the path.
pub(super) fn at(path: &[&str]) -> Shape {
    let mut shape = Shape::Yaml;
    // The probe always ends with an error, because it has no values.
    let _ = raw::File::deserialize(Probe { path, depth: 0, shape: &mut shape });
    shape
}

/// A deserializer that goes along the path and looks at what each type asks it for.
struct Probe<'a> {
    path: &'a [&'a str],
    depth: usize,
    shape: &'a mut Shape,
}

impl Probe<'_> {
    /// Ends at a value. If the path goes on, the value itself will be refused by its type.
    fn end<T>(self, shape: Shape) -> Result<T, value::Error> {
        if self.path.len() == self.depth {
            *self.shape = shape;
        }
        Err(value::Error::custom("only asked"))
    }

    /// Ends at a section, or goes on into it.
    fn enter<'de, V: Visitor<'de>>(
        self,
        known: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, value::Error> {
        let Some(&key) = self.path.get(self.depth) else { return self.end(Shape::Yaml) };
        if let Some(known) = known
            && !known.contains(&key)
        {
            *self.shape = Shape::Unknown { depth: self.depth, known };
            return Err(value::Error::custom("only asked"));
        }
        visitor.visit_map(OneKey { key: Some(key), value: Self { depth: self.depth + 1, ..self } })
    }
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.enter(Some(fields), visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.enter(None, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.end(Shape::Text)
    }

    fn deserialize_string<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        self.end(Shape::Text)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        self.end(Shape::Yaml)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str bytes byte_buf unit unit_struct newtype_struct seq
        tuple tuple_struct identifier ignored_any
    }
}

/// A section with one key.
struct OneKey<'a> {
    key: Option<&'a str>,
    value: Probe<'a>,
}

impl<'de> MapAccess<'de> for OneKey<'_> {
    type Error = value::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Self::Error> {
        self.key.take().map(|key| seed.deserialize(key.into_deserializer())).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Self::Error> {
        let Probe { path, depth, shape } = &mut self.value;
        seed.deserialize(Probe { path, depth: *depth, shape })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: &Shape) {
        assert_eq!(at(&path.split('.').collect::<Vec<_>>()), *expected, "{path}");
    }

    #[test]
    fn the_types_say_what_they_expect() {
        for text in ["redis.password", "redis.addr", "auth.jwt_secret", "server.on_full_queue", "redis.sentinel.master"]
        {
            check(text, &Shape::Text);
        }
        let values = [
            "redis",
            "games",
            "server.port",
            "auth.required",
            "auth.audience",
            "server.allowed_origins",
            "plugins.settings",
            "plugins.settings.chat",
            "plugins.settings.chat.memory_mb",
            "plugins.settings.chat.config",
            "plugins.settings.chat.config.a",
            "plugins.settings.chat.config.a.b",
        ];
        for yaml in values {
            check(yaml, &Shape::Yaml);
        }
        for (path, depth) in [("redis.adr", 1), ("rediss.addr", 0), ("plugins.settings.chat.memory.x", 3)] {
            assert!(matches!(at(&path.split('.').collect::<Vec<_>>()), Shape::Unknown { depth: d, .. } if d == depth));
        }
        for value in ["redis.addr.host", "games.0.id", "server.port.x"] {
            check(value, &Shape::Yaml);
        }
    }
}
