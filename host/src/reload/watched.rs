//! When a file that may change at any time is read: once two looks at it saw the same, and again if it could not be read.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

/// The pause after a read that failed. Each further failure doubles it.
const MIN_RETRY: Duration = Duration::from_millis(200);

/// The longest pause.
const MAX_RETRY: Duration = Duration::from_secs(10);

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
    /// It is not.
    Absent,
}

impl Stamp {
    /// Looks at a file.
    ///
    /// # Errors
    /// Every error but "not found". It says nothing about the file, which may be there unchanged.
    pub fn of(path: &Path) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(meta) => Ok(Self::Present { bytes: meta.len(), modified: meta.modified().ok(), inode: meta.ino() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Absent),
            Err(error) => Err(error),
        }
    }
}

/// A file that may change at any time: it is read once two looks saw the same.
#[derive(Debug, Default)]
pub struct Watched {
    seen: Option<Stamp>,
    taken: Option<Stamp>,
    failures: u32,
    retry_at: Option<Instant>,
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
            let waits = self.retry_at.is_some_and(|at| Instant::now() < at);
            return if waits { Look::Same } else { Look::Changed };
        }
        (self.failures, self.retry_at) = (0, None);
        self.seen = Some(now);
        Look::Unsettled
    }

    /// The file was read as it was at this look.
    pub fn take(&mut self, stamp: Stamp) {
        (self.failures, self.retry_at) = (0, None);
        self.taken = Some(stamp);
    }

    /// The file could not be read, which may be no fault of it. It is [`Look::Changed`] again after a pause.
    pub fn failed(&mut self) {
        let pause = MIN_RETRY.saturating_mul(1 << self.failures.min(16)).min(MAX_RETRY);
        self.failures += 1;
        self.retry_at = Some(Instant::now() + pause);
    }

    /// Whether it was read as it is now.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.taken.is_some() && self.taken == self.seen
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

    #[test]
    fn a_file_that_could_not_be_read_is_read_again_after_a_pause_or_a_change() {
        let mut file = Watched::default();
        assert_eq!([file.look(stamp(1)), file.look(stamp(1))], [Look::Unsettled, Look::Changed]);
        file.failed();
        assert_eq!(file.look(stamp(1)), Look::Same, "the pause");
        file.retry_at = Some(Instant::now());
        assert_eq!(file.look(stamp(1)), Look::Changed, "after the pause");
        file.failed();
        assert_eq!([file.look(stamp(2)), file.look(stamp(2))], [Look::Unsettled, Look::Changed], "it changed");
    }

    #[test]
    fn only_not_found_means_that_a_file_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        assert_eq!(Stamp::of(&file).unwrap(), Stamp::Absent);
        fs::write(&file, b"x").unwrap();
        assert!(matches!(Stamp::of(&file), Ok(Stamp::Present { bytes: 1, .. })));
        Stamp::of(&file.join("below")).expect_err("the file is no directory");
        Stamp::of(&folder.path().join("x".repeat(300))).expect_err("the name is too long");
    }
}
