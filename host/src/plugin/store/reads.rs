//! What one call has read of a plugin's state.

use std::sync::Arc;

/// What one call has read, in the order of its reads. It takes no memory of its own while it is empty.
#[derive(Debug, Default)]
pub struct Reads {
    pub(super) format: u32,
    /// The box makes a call that reads nothing cheaper, because its reads are moved several times.
    #[allow(clippy::box_collection, reason = "a box is a third as large as a vector")]
    pub(super) reads: Option<Box<Vec<Read>>>,
}

impl Reads {
    /// Returns the reads of a call that has read nothing yet. `format` is the format of the state that the calling
    /// generation understands.
    #[must_use]
    pub fn new(format: u32) -> Self {
        Self { format, reads: None }
    }

    /// Returns the reads, and leaves a call that has read nothing.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self { format: self.format, reads: self.reads.take() }
    }

    pub(super) fn push(&mut self, read: Read) {
        self.reads.get_or_insert_default().push(read);
    }

    /// Returns whether the call has read nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reads.is_none()
    }
}

/// A read and the versions that it has found. A version is used once in a store, so it also stands for its key.
#[derive(Debug)]
pub(super) enum Read {
    Get { key: Arc<str>, version: Option<u64> },
    Scan { range: Range, versions: Vec<u64> },
}

/// What a scan asks for.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) prefix: Box<str>,
    pub(super) max: usize,
    pub(super) max_bytes: usize,
}
