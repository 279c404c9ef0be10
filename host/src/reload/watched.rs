//! Decides when to read files that may change at any time. A changed file is read when two checks in a row have found
//! the same metadata. A read that fails is tried again after a pause.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

/// The pause after the first read that failed. Each further failure doubles the pause.
const MIN_RETRY: Duration = Duration::from_millis(200);

/// The longest pause between failed reads.
const MAX_RETRY: Duration = Duration::from_secs(10);

/// The metadata that identifies a version of a file without reading the file. Symbolic links are followed, so a link
/// that leads to another file now has another stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// The file exists.
    Present {
        /// The length of the file in bytes.
        bytes: u64,
        /// The time of the last modification, if the system reports it.
        modified: Option<SystemTime>,
        /// The inode number, which differs after the file has been replaced.
        inode: u64,
        /// When the content or the metadata changed last, in seconds and nanoseconds. Programs that keep the other three,
        /// such as `rsync --inplace --times`, cannot set this time.
        changed: (i64, i64),
    },
    /// The file does not exist.
    Absent,
}

impl Stamp {
    /// Reads the metadata of a file.
    ///
    /// # Errors
    /// Returns every error of the system except "not found". After such an error, the file may still exist unchanged.
    pub fn of(path: &Path) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(meta) => Ok(Self::Present {
                bytes: meta.len(),
                modified: meta.modified().ok(),
                inode: meta.ino(),
                changed: (meta.ctime(), meta.ctime_nsec()),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Absent),
            Err(error) => Err(error),
        }
    }
}

/// The state of a watched file, which decides when the file has to be read. Files that belong together have one state,
/// and their stamps are one value.
#[derive(Debug)]
pub struct Watched<S = Stamp> {
    /// The stamp of the last check.
    seen: Option<S>,
    /// The stamp with which the file was last read.
    taken: Option<S>,
    /// The number of reads in a row that failed.
    failures: u32,
    /// The end of the pause after a read that failed.
    retry_at: Option<Instant>,
}

impl<S> Default for Watched<S> {
    fn default() -> Self {
        Self { seen: None, taken: None, failures: 0, retry_at: None }
    }
}

/// The result of a check.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// The file was already read, or the pause after a failed read is not over yet.
    Same,
    /// The file changed since the last check, so somebody may still be writing it.
    Unsettled,
    /// The file has to be read: it changed, and two checks in a row have found the same stamp.
    Changed,
}

impl<S: PartialEq> Watched<S> {
    /// Records the stamp of a new check, and returns the result of the check.
    pub fn look(&mut self, now: S) -> Look {
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

    /// Records that the file with this stamp was read.
    pub fn take(&mut self, stamp: S) {
        (self.failures, self.retry_at) = (0, None);
        self.taken = Some(stamp);
    }

    /// Makes the next check return [`Look::Changed`], unless the file has changed.
    pub fn forget(&mut self) {
        (self.taken, self.retry_at) = (None, None);
    }

    /// Records that the file could not be read, which may not be the file's fault. After a pause, a check returns
    /// [`Look::Changed`] again.
    pub fn failed(&mut self) {
        let pause = MIN_RETRY.saturating_mul(1 << self.failures.min(16)).min(MAX_RETRY);
        self.failures += 1;
        self.retry_at = Some(Instant::now() + pause);
    }

    /// Returns whether the file was read in its current state.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.taken.is_some() && self.taken == self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn stamp(bytes: u64) -> Stamp {
        Stamp::Present { bytes, modified: None, inode: 1, changed: (1, 0) }
    }

    #[test]
    fn a_file_is_read_after_two_checks_with_the_same_stamp() {
        let mut file = Watched::default();
        assert_eq!(
            [file.look(stamp(1)), file.look(stamp(2)), file.look(stamp(2))],
            [Look::Unsettled, Look::Unsettled, Look::Changed]
        );
        assert_eq!(file.look(stamp(2)), Look::Changed, "the file was not read yet");
        file.take(stamp(2));
        assert_eq!([file.look(stamp(2)), file.look(stamp(3))], [Look::Same, Look::Unsettled]);
        assert_eq!(file.look(stamp(2)), Look::Same, "the file is again as it was read");
    }

    #[test]
    fn a_file_is_removed_after_two_checks_in_a_row_that_did_not_find_it() {
        let mut file = Watched::default();
        file.look(stamp(1));
        file.take(stamp(1));
        assert_eq!([file.look(Stamp::Absent), file.look(stamp(1))], [Look::Unsettled, Look::Same], "it was replaced");
        assert_eq!([file.look(Stamp::Absent), file.look(Stamp::Absent)], [Look::Unsettled, Look::Changed]);
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
    fn a_file_that_is_written_over_and_keeps_its_times_has_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"one").unwrap();
        let (before, modified) = (Stamp::of(&file).unwrap(), fs::metadata(&file).unwrap().modified().unwrap());
        // The system's clock for files moves in steps of some milliseconds.
        thread::sleep(Duration::from_millis(50));
        fs::write(&file, b"two").unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
        let after = fs::metadata(&file).unwrap();
        assert_eq!((after.len(), after.modified().unwrap()), (3, modified));
        assert_ne!(Stamp::of(&file).unwrap(), before);
    }

    #[test]
    fn only_the_error_not_found_means_that_a_file_is_absent() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        assert_eq!(Stamp::of(&file).unwrap(), Stamp::Absent);
        fs::write(&file, b"x").unwrap();
        assert!(matches!(Stamp::of(&file), Ok(Stamp::Present { bytes: 1, .. })));
        Stamp::of(&file.join("below")).expect_err("the file is no directory");
        Stamp::of(&folder.path().join("x".repeat(300))).expect_err("the name is too long");
    }
}
