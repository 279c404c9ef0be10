//! Parses YAML, and finds what the parser does not report, or not well: a key that a section has more than once, aliases
//! that multiply values beyond any bound, tags, and numbers that are no numbers.

use super::secret;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};
use serde_yaml::Value;
use std::{cell::Cell, collections::HashSet, fmt};

/// The maximum number of values in a file. A value that aliases repeat counts each time. A configuration for a real
/// gateway has far fewer values.
const MAX_VALUES: usize = 200_000;

/// The maximum number of bytes of all texts and keys, four times those of a file. A text that aliases repeat counts each
/// time.
const MAX_TEXT_BYTES: usize = 4 << 20;

/// Parses the text of a file or a variable.
///
/// # Errors
/// Returns the first error.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    match check(text) {
        Some(error) => Err(error),
        None => serde_yaml::from_str(text).map_err(|error| secret::without_value(&error.to_string())),
    }
}

/// Returns the first error. Keeps none of the values in memory.
fn check(text: &str) -> Option<String> {
    let left = Left { values: Cell::new(MAX_VALUES), bytes: Cell::new(MAX_TEXT_BYTES) };
    let error = Walk(&left).deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    let message = error.to_string();
    if message.contains(TOO_MANY) {
        return Some(format!(
            "it has more than {MAX_VALUES} values or {MAX_TEXT_BYTES} bytes of text: use fewer aliases"
        ));
    }
    let own = [IS_DUPLICATE, TAG, TOO_LARGE, NOT_FINITE].into_iter().find_map(|why| Some((message.find(why)?, why)));
    match (own, error.location()) {
        (Some((at, why)), Some(location)) => Some(format!("line {}: {}{why}", location.line(), &message[..at])),
        _ => Some(secret::without_value(&message)),
    }
}

const IS_DUPLICATE: &str = " is a duplicate";
const TOO_MANY: &str = "too many values";
const TAG: &str = "tags such as `!x` are not supported: write the value itself, or set it with an environment variable";
const TOO_LARGE: &str = "an integer of more than 64 bits: put it in quotes if it is a text";
const NOT_FINITE: &str = "`.nan` and `.inf` are not supported: put it in quotes if it is a text";

/// The numbers of values and bytes that the rest of the file may have.
struct Left {
    values: Cell<usize>,
    bytes: Cell<usize>,
}

/// Takes this number from what is left.
fn take<E: Error>(left: &Cell<usize>, taken: usize) -> Result<(), E> {
    left.set(left.get().checked_sub(taken).ok_or_else(|| E::custom(TOO_MANY))?);
    Ok(())
}

/// Visits every value and counts down to the maximum.
#[derive(Clone, Copy)]
struct Walk<'a>(&'a Left);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        take(&self.0.values, 1)?;
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
        while map.next_key_seed(Key(&mut seen, self.0))?.is_some() {
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

    fn visit_i128<E: Error>(self, _: i128) -> Result<(), E> {
        Err(E::custom(TOO_LARGE))
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<(), E> {
        Err(E::custom(TOO_LARGE))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        if number.is_finite() { Ok(()) } else { Err(E::custom(NOT_FINITE)) }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        take(&self.0.bytes, text.len())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    /// Visits an empty file.
    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    /// Refuses a value with a tag. The parser would drop the tag and take the value as it is.
    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(A::Error::custom(TAG))
    }
}

/// Reads one key of a section. Reading a duplicate key fails, so that the error has the line of the key.
struct Key<'a>(&'a mut HashSet<String>, &'a Left);

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
        take(&self.1.bytes, key.len())?;
        if self.0.insert(key.to_owned()) { Ok(()) } else { Err(E::custom(format!("`{key}`{IS_DUPLICATE}"))) }
    }
}
