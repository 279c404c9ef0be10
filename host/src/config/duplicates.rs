//! Finds two errors that the parser does not report well: a key that a section has more than once, and aliases that
//! multiply values beyond any bound.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::{cell::Cell, collections::HashSet, fmt};

/// The maximum number of values in a file. A value that aliases repeat counts each time. A configuration for a real
/// gateway has far fewer values.
const MAX_VALUES: usize = 200_000;

/// Returns the error of the first duplicate key, or the error that there are too many values. Keeps none of the values
/// in memory.
pub(super) fn check(text: &str) -> Option<String> {
    let left = Cell::new(MAX_VALUES);
    let error = Walk(&left).deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    let message = error.to_string();
    if message.contains(TOO_MANY) {
        return Some(format!("it has more than {MAX_VALUES} values: use fewer aliases"));
    }
    let line = error.location()?.line();
    let (key, _) = message.split_once(IS_DUPLICATE)?;
    Some(format!("line {line}: {key}{IS_DUPLICATE}"))
}

const IS_DUPLICATE: &str = " is a duplicate";
const TOO_MANY: &str = "too many values";

/// Visits every value and counts down to the maximum.
#[derive(Clone, Copy)]
struct Walk<'a>(&'a Cell<usize>);

impl Walk<'_> {
    fn count<E: Error>(self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1).ok_or_else(|| E::custom(TOO_MANY))?;
        self.0.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while map.next_key_seed(Key(&mut seen))?.is_some() {
            map.next_value_seed(self)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Reads one key of a section. Reading a duplicate key fails, so that the error has the line of the key.
struct Key<'a>(&'a mut HashSet<String>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<(), E> {
        if self.0.insert(key.to_owned()) { Ok(()) } else { Err(E::custom(format!("`{key}`{IS_DUPLICATE}"))) }
    }
}
