//! The reader's position in one stream, and what it knows about the entries before it.

use super::{seen::Seen, server::Info};
use std::collections::VecDeque;

/// The id before the first entry of every stream.
pub(super) const START: &str = "0-0";

/// The maximum number of ids that are remembered.
const MAX_IDS: usize = 1024;

/// The reader's position in one stream.
#[derive(Debug)]
pub(super) struct Position {
    /// The last ids that were read, the newest one last. The end is the position.
    ids: VecDeque<Box<str>>,
    /// The number of entries up to the position that were added to the stream. It is `None` if it is not known.
    passed: Option<u64>,
    pub(super) seen: Seen,
}

impl Position {
    /// Returns the position at the end of a stream. `before` are the last ids before the end, the newest one first.
    pub(super) fn at_end(info: Option<&Info>, before: Vec<String>) -> Self {
        let mut ids: VecDeque<Box<str>> = before.into_iter().rev().map(String::into_boxed_str).collect();
        match info {
            Some(info) if ids.back().is_none_or(|last| **last != *info.last_id) => {
                ids.push_back(info.last_id.as_str().into());
            }
            Some(_) => {}
            None => ids.push_back(START.into()),
        }
        Self { ids, passed: info.map_or(Some(0), |info| info.added), seen: Seen::default() }
    }

    /// Returns the id after which reading goes on.
    pub(super) fn id(&self) -> &str {
        self.ids.back().map_or(START, |id| id)
    }

    /// Returns the ids that were read, the newest one first.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.ids.iter().rev().map(|id| &**id)
    }

    /// Moves behind the next entry.
    pub(super) fn advance(&mut self, id: &str) {
        if self.ids.len() == MAX_IDS {
            self.ids.pop_front();
        }
        self.ids.push_back(id.into());
        self.passed = self.passed.map(|passed| passed + 1);
    }

    /// Goes back to an entry that was read earlier, because the later ones are gone.
    pub(super) fn go_back_to(&mut self, id: &str) {
        while self.ids.back().is_some_and(|last| **last != *id) {
            self.ids.pop_back();
        }
        self.passed = None;
    }

    /// Goes to the first entry that the stream has. Returns the number of entries that were removed before they were
    /// read, or `None` if it is not known, because the stream is not the same any more.
    pub(super) fn go_to_start(&mut self, info: Option<&Info>) -> Option<u64> {
        let removed = match info {
            Some(info) => info.removed(),
            None => Some(0),
        };
        let lost = removed.zip(self.passed).and_then(|(removed, passed)| removed.checked_sub(passed));
        self.ids.push_back(START.into());
        self.passed = removed;
        lost
    }

    /// Returns the number of entries that were removed before they were read, and that were not counted yet.
    pub(super) fn lost(&mut self, info: &Info) -> u64 {
        let Some(added) = info.added else { return 0 };
        // At the end, everything was read or removed. Otherwise only what the stream has removed is known.
        let is_end = info.last_id == self.id();
        let passed = if is_end { added } else { added.saturating_sub(info.len) };
        let lost = self.passed.map_or(0, |before| passed.saturating_sub(before));
        if is_end || lost > 0 {
            self.passed = Some(passed);
        }
        lost
    }

    /// Returns the number of entries after the position, or at most that many if it is not known. Returns `None` if the
    /// server does not count entries, as before Redis 7.
    pub(super) fn lag(&self, info: &Info) -> Option<u64> {
        let added = info.added?;
        Some(self.passed.map_or(info.len, |passed| added.saturating_sub(passed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(len: u64, last_id: &str, added: u64) -> Info {
        Info { len, last_id: last_id.to_owned(), added: Some(added) }
    }

    fn ids(position: &Position) -> Vec<&str> {
        position.ids().collect()
    }

    #[test]
    fn reading_begins_at_the_end_and_remembers_what_is_before() {
        let before = ["3-0", "2-0"].map(str::to_owned).to_vec();
        let mut position = Position::at_end(Some(&info(2, "4-0", 5)), before);
        assert_eq!(ids(&position), ["4-0", "3-0", "2-0"], "the last entry was deleted");
        assert_eq!((position.lag(&info(2, "4-0", 5)), position.lag(&info(4, "6-0", 7))), (Some(0), Some(2)));
        position.advance("5-0");
        assert_eq!((position.id(), position.lag(&info(4, "6-0", 7))), ("5-0", Some(1)));
        assert_eq!(ids(&Position::at_end(Some(&info(1, "4-0", 1)), vec!["4-0".to_owned()])), ["4-0"]);
        assert_eq!(ids(&Position::at_end(None, Vec::new())), [START]);
    }

    #[test]
    fn only_the_last_ids_are_remembered() {
        let mut position = Position::at_end(None, Vec::new());
        for number in 1..=MAX_IDS + 10 {
            position.advance(&format!("{number}-0"));
        }
        let ids = ids(&position);
        assert_eq!((ids.len(), ids[0], ids[MAX_IDS - 1]), (MAX_IDS, "1034-0", "11-0"));
    }

    #[test]
    fn removed_entries_that_were_not_read_are_counted_once() {
        let mut position = Position::at_end(Some(&info(10, "10-0", 10)), Vec::new());
        assert_eq!(position.lost(&info(5, "20-0", 20)), 5, "11 to 15 were removed");
        assert_eq!(position.lost(&info(5, "20-0", 20)), 0);
        for number in 18..=20 {
            position.advance(&format!("{number}-0"));
        }
        assert_eq!(position.lost(&info(5, "20-0", 20)), 2, "16 and 17 were removed before the others were read");
        position.advance("21-0");
        assert_eq!(position.lost(&info(0, "21-0", 21)), 0, "removed after they were read");
        // The stream was deleted, and has begun anew.
        position.advance("22-0");
        assert_eq!((position.lost(&info(1, "22-0", 1)), position.lag(&info(2, "23-0", 2))), (0, Some(1)));
        // Redis 6 does not count.
        let uncounted = Info { added: None, ..info(1, "30-0", 0) };
        assert_eq!((position.lost(&uncounted), position.lag(&uncounted)), (0, None));
    }

    #[test]
    fn a_stream_that_has_lost_its_end_is_read_from_the_newest_entry_that_was_read() {
        let mut position = Position::at_end(None, Vec::new());
        ["1-0", "2-0", "9-0"].into_iter().for_each(|id| position.advance(id));
        position.go_back_to("2-0");
        assert_eq!((position.id(), position.lag(&info(5, "5-0", 5))), ("2-0", Some(5)), "at most the whole stream");
        ["3-0", "4-0", "5-0"].into_iter().for_each(|id| position.advance(id));
        assert_eq!((position.lost(&info(5, "5-0", 5)), position.lag(&info(6, "6-0", 6))), (0, Some(1)));
    }

    #[test]
    fn a_stream_without_any_entry_that_was_read_is_read_from_its_start() {
        let read = || {
            let mut position = Position::at_end(None, Vec::new());
            ["1-0", "2-0"].into_iter().for_each(|id| position.advance(id));
            position
        };
        let mut position = read();
        assert_eq!(position.go_to_start(Some(&info(3, "9-0", 9))), Some(4), "3 to 6 were removed");
        assert_eq!((position.id(), position.lag(&info(3, "9-0", 9))), (START, Some(3)));
        assert_eq!(read().go_to_start(Some(&info(7, "9-0", 9))), Some(0), "1 and 2 were removed");
        assert_eq!(read().go_to_start(Some(&info(1, "9-0", 1))), None, "another stream");
        assert_eq!(read().go_to_start(None), None, "no stream");
    }
}
