//! Reads files that an operator put in place. Only regular files are read, so that no read waits for a device, a pipe
//! or the kernel. No file is read beyond its bound.

use rustix::fs::OFlags;
use std::{
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The system refused. The cause may soon be over, for example if no file descriptor is free.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The path names a directory, a device, a pipe or a socket.
    #[error("it is not a file: put a regular file, or a link to one, in its place")]
    NotRegular,
    /// The file is too large.
    #[error("it has {bytes} bytes, and {limit} are the most")]
    TooLarge {
        /// The size of the file in bytes.
        bytes: u64,
        /// The largest size in bytes that is read.
        limit: u64,
    },
    /// The file became shorter or longer while it was read.
    #[error("it changed while it was read")]
    Changed,
}

/// Reads a regular file of at most `limit` bytes. Links are followed.
///
/// A file that the kernel generates, such as `/proc/kmsg`, may block or never end. The size of such a file is 0, so
/// nothing is read from it.
///
/// # Errors
/// Returns an [`Unreadable`] that says why the file was not read.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Unreadable> {
    // The path is checked first, because opening a device may already have an effect. The open file is checked again,
    // because the path may name another file by then.
    if !fs::metadata(path)?.is_file() {
        return Err(Unreadable::NotRegular);
    }
    // NONBLOCK: do not wait for the other end of a pipe. NOCTTY: do not make a terminal the controlling
    // terminal of this process.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(Unreadable::NotRegular);
    }
    let bytes = meta.len();
    if bytes > limit {
        return Err(Unreadable::TooLarge { bytes, limit });
    }
    let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
    if bytes > 0 {
        file.take(bytes + 1).read_to_end(&mut content)?;
    }
    if content.len() as u64 == bytes { Ok(content) } else { Err(Unreadable::Changed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::net::UnixListener, process::Command};

    #[test]
    fn only_regular_files_are_read_and_only_to_their_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), b"12345").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        assert_eq!(
            (read(&path("file"), 5).unwrap(), read(&path("link"), 5).unwrap()),
            (b"12345".into(), b"12345".into())
        );
        assert!(matches!(read(&path("file"), 4), Err(Unreadable::TooLarge { bytes: 5, limit: 4 })));

        assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
        let _socket = UnixListener::bind(path("socket")).unwrap();
        for other in [path("fifo"), path("socket"), folder.path().to_owned(), "/dev/zero".into()] {
            assert!(matches!(read(&other, 5), Err(Unreadable::NotRegular)), "{}", other.display());
        }
        assert!(matches!(read(&path("nowhere"), 5), Err(Unreadable::Io(_))));
        for endless in ["/proc/kmsg", "/proc/self/pagemap"] {
            let outcome = read(Path::new(endless), 5);
            assert!(matches!(&outcome, Ok(content) if content.is_empty()) || outcome.is_err(), "{endless}");
        }
    }
}
