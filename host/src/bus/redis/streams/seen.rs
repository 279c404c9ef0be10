//! Recognizes entries that were written twice.

use std::collections::HashMap;

/// The maximum number of writers of one stream that are remembered.
const MAX_WRITERS: usize = 4096;

/// The last entry of each writer of a stream.
#[derive(Debug, Default)]
pub(super) struct Seen {
    writers: HashMap<Box<str>, Last>,
    /// The number of entries so far.
    clock: u64,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    /// The number of the writer's last entry.
    number: u64,
    /// The time of the writer's last entry, in entries.
    at: u64,
}

impl Seen {
    /// Records the id of an entry, and returns whether the entry is a duplicate. It is one if an entry of the same writer
    /// with the same number or a higher one came before. An entry without a proper id never is one.
    pub(super) fn is_duplicate(&mut self, id: &[u8]) -> bool {
        let Some((writer, number)) = parse(id) else { return false };
        self.clock += 1;
        let at = self.clock;
        if let Some(last) = self.writers.get_mut(writer) {
            last.at = at;
            let is_duplicate = number <= last.number;
            last.number = last.number.max(number);
            return is_duplicate;
        }
        if self.writers.len() == MAX_WRITERS {
            self.forget_oldest();
        }
        self.writers.insert(writer.into(), Last { number, at });
        false
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.writers.values().map(|last| last.at).min() {
            self.writers.retain(|_, last| last.at != oldest);
        }
    }
}

/// Splits an id into the writer and the number.
fn parse(id: &[u8]) -> Option<(&str, u64)> {
    let (writer, number) = str::from_utf8(id).ok()?.rsplit_once('-')?;
    Some((writer, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_duplicate_if_its_writer_has_written_it_or_a_later_one() {
        let mut seen = Seen::default();
        let duplicates = [
            ("a-b-1", false),
            ("a-b-1", true),
            ("a-c-1", false),
            ("a-b-4", false),
            ("a-b-3", true),
            ("a-b-5", false),
            ("a-c-1", true),
            ("a-c-2", false),
        ];
        for (id, is_duplicate) in duplicates {
            assert_eq!(seen.is_duplicate(id.as_bytes()), is_duplicate, "{id}");
        }
        for improper in [&b""[..], b"a", b"a-", b"a-x", b"a--", b"a-99999999999999999999", b"\xff-1"] {
            assert!(!seen.is_duplicate(improper) && !seen.is_duplicate(improper), "{improper:?}");
        }
    }

    #[test]
    fn the_writer_that_was_silent_for_longest_is_forgotten_first() {
        let mut seen = Seen::default();
        for writer in 0..MAX_WRITERS {
            assert!(!seen.is_duplicate(format!("{writer}-1").as_bytes()));
        }
        assert!(seen.is_duplicate(b"0-1"), "the first writer is not silent any more");
        assert!(!seen.is_duplicate(b"new-1"));
        assert_eq!(seen.writers.len(), MAX_WRITERS);
        assert!(seen.is_duplicate(b"0-1") && seen.is_duplicate(b"2-1") && seen.is_duplicate(b"new-1"));
        assert!(!seen.is_duplicate(b"1-1"));
    }
}
