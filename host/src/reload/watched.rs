//! When a file that may change at any time is read: once two looks at it saw the same.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, time::SystemTime};

/// What a look at a file tells without reading it. Links are followed, so a link that is swapped makes another file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// It is there.
    Present {
        /// Its length.
        bytes: u64,
        /// Its time.
        modified: Option<SystemTime>,
        /// Which file it is.
        inode: u64,
    },
    /// It is not, or cannot be looked at.
    Absent(io::ErrorKind),
}

impl Stamp {
    /// Looks at a file.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(meta) => Self::Present { bytes: meta.len(), modified: meta.modified().ok(), inode: meta.ino() },
            Err(error) => Self::Absent(error.kind()),
        }
    }
}

/// A file that may change at any time: it is read once two looks saw the same.
#[derive(Debug, Default)]
pub struct Watched {
    seen: Option<Stamp>,
    taken: Option<Stamp>,
}

/// What a look at a file says.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing new.
    Same,
    /// It changed since the last look, and may still be written.
    Unsettled,
    /// It changed, and is whole as far as one can see.
    Changed,
}

impl Watched {
    /// Takes note of a look.
    pub fn look(&mut self, now: Stamp) -> Look {
        if self.taken.as_ref() == Some(&now) {
            self.seen = Some(now);
            return Look::Same;
        }
        if self.seen.as_ref() == Some(&now) {
            return Look::Changed;
        }
        self.seen = Some(now);
        Look::Unsettled
    }

    /// The file was read as it was at this look.
    pub fn take(&mut self, stamp: Stamp) {
        self.taken = Some(stamp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(bytes: u64) -> Stamp {
        Stamp::Present { bytes, modified: None, inode: 1 }
    }

    #[test]
    fn a_file_is_read_once_two_looks_saw_the_same() {
        let mut file = Watched::default();
        assert_eq!(
            [file.look(stamp(1)), file.look(stamp(2)), file.look(stamp(2))],
            [Look::Unsettled, Look::Unsettled, Look::Changed]
        );
        assert_eq!(file.look(stamp(2)), Look::Changed, "it was not taken");
        file.take(stamp(2));
        assert_eq!([file.look(stamp(2)), file.look(stamp(3))], [Look::Same, Look::Unsettled]);
        assert_eq!(file.look(stamp(2)), Look::Same, "it is what it was");
    }
}
