//! A batch of publishes, which lie one behind another in a few buffers.
//!
//! A publish of ordinary size needs no allocation and frees no memory on another thread, and a thousand publishes are
//! taken in one step. A channel was rejected: each publish would carry allocations to the bus's thread, and a pipelined
//! request cost a sixth more.

use bytes::Bytes;
use std::{borrow::Cow, slice};

/// The size in bytes from which a body is shared with its owner. A smaller body is copied.
pub(super) const MIN_SHARED_BYTES: usize = 4096;

/// The maximum capacity in bytes that an empty batch keeps for each of its buffers.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// Publishes in the order in which they were queued. `O` is the type of a publish's origin.
#[derive(Debug)]
pub(super) struct Batch<O> {
    entries: Vec<Entry<O>>,
    topics: String,
    copies: Vec<u8>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry<O> {
    topic_len: usize,
    body: Body,
    origin: Option<O>,
}

#[derive(Debug)]
enum Body {
    /// The length of a body that lies in the batch's buffer of copies.
    Copied(usize),
    /// A body that is shared with its owner.
    Shared(Bytes),
}

/// An iterator over the publishes of a batch.
#[derive(Debug)]
pub(super) struct Publications<'a, O> {
    entries: slice::Iter<'a, Entry<O>>,
    topics: &'a str,
    copies: &'a [u8],
}

/// One publish of a batch.
#[derive(Debug)]
pub(super) struct Publication<'a, O> {
    pub(super) topic: &'a str,
    pub(super) body: &'a [u8],
    /// The packet that caused the publish. The packet is answered if the publish reaches no subscriber.
    pub(super) origin: Option<&'a O>,
}

impl<O> Default for Batch<O> {
    fn default() -> Self {
        Self { entries: Vec::new(), topics: String::new(), copies: Vec::new(), bytes: 0 }
    }
}

impl<O> Batch<O> {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the total size of all topics and bodies, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn iter(&self) -> Publications<'_, O> {
        Publications { entries: self.entries.iter(), topics: &self.topics, copies: &self.copies }
    }

    pub(super) fn push(&mut self, topic: &str, body: Cow<'_, Bytes>, origin: Option<O>) {
        self.bytes += topic.len() + body.len();
        self.topics.push_str(topic);
        let body = if body.len() < MIN_SHARED_BYTES {
            self.copies.extend_from_slice(&body);
            Body::Copied(body.len())
        } else {
            Body::Shared(body.into_owned())
        };
        self.entries.push(Entry { topic_len: topic.len(), body, origin });
    }

    /// Empties the batch, and releases memory beyond [`MAX_KEPT_BYTES`] that a burst has taken.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.topics.clear();
        self.copies.clear();
        self.bytes = 0;
        self.entries.shrink_to(MAX_KEPT_BYTES / size_of::<Entry<O>>());
        self.topics.shrink_to(MAX_KEPT_BYTES);
        self.copies.shrink_to(MAX_KEPT_BYTES);
    }
}

impl<'a, O> Iterator for Publications<'a, O> {
    type Item = Publication<'a, O>;

    fn next(&mut self) -> Option<Self::Item> {
        let Entry { topic_len, body, origin } = self.entries.next()?;
        let (topic, topics) = self.topics.split_at(*topic_len);
        self.topics = topics;
        let body = match body {
            Body::Shared(body) => body,
            Body::Copied(len) => {
                let (body, copies) = self.copies.split_at(*len);
                self.copies = copies;
                body
            }
        };
        Some(Publication { topic, body, origin: origin.as_ref() })
    }
}
