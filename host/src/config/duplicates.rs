//! What is wrong with a file as a whole: a key that is a duplicate, of which the parser itself does not say the line, and values
//! that aliases multiply beyond any bound.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::{cell::Cell, collections::HashSet, fmt};

/// The values that a file may have, each as often as aliases repeat it. A file without aliases that is as large as may be has fewer
/// than that, unless it is made of empty lists.
const MAX_VALUES: usize = 200_000;

/// The first key that its section has twice, or that there are too many values. Nothing is kept of what is read.
pub(super) fn check(text: &str) -> Option<String> {
    let left = Cell::new(MAX_VALUES);
    let error = Walk(&left).deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    let said = error.to_string();
    if said.contains(TOO_MANY) {
        return Some(format!("it has more than {MAX_VALUES} values: use fewer aliases"));
    }
    let line = error.location()?.line();
    let (key, _) = said.split_once(IS_DUPLICATE)?;
    Some(format!("line {line}: {key}{IS_DUPLICATE}"))
}

const IS_DUPLICATE: &str = " is a duplicate";
const TOO_MANY: &str = "too many values";

/// Visits everything.
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

/// Fails where it stands if it was seen before: the error then knows the line.
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
