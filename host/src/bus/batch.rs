//! A batch of publishes. All topics lie in one buffer, one behind another, and so do all small bodies.
//!
//! A publish of ordinary size needs no allocation and frees no memory on another thread, and a thousand publishes are
//! taken in one step. A channel was rejected: each publish would carry allocations to the bus's thread, and a pipelined
//! request cost a sixth more.

use crate::traces::Publishing;
use bytes::Bytes;
use std::{borrow::Cow, slice, sync::Arc};

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
    /// The number of entries that were withdrawn.
    withdrawn: usize,
}

#[derive(Debug)]
struct Entry<O> {
    /// The length of the topic in bytes. So few bits leave room for the trace.
    topic_len: u16,
    body: Body,
    origin: Option<O>,
    trace: Trace,
    /// Whether the publish was withdrawn. A withdrawn publish is not sent.
    is_withdrawn: bool,
}

#[derive(Debug)]
enum Body {
    /// The length of a body that lies in the batch's buffer of copies.
    Copied(usize),
    /// A body that is shared with its owner.
    Shared(Bytes),
}

/// The span of a publish, which is usually not recorded.
pub(super) type Trace = Option<Arc<Publishing>>;

/// An iterator over the publishes of a batch.
#[derive(Clone, Debug)]
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
    pub(super) trace: Option<&'a Arc<Publishing>>,
}

/// One publish, apart from a batch.
#[derive(Debug)]
pub(super) struct OwnedPublication<O> {
    pub(super) topic: Box<str>,
    pub(super) body: Bytes,
    pub(super) origin: Option<O>,
    pub(super) trace: Trace,
}

impl<O: Copy> Publication<'_, O> {
    pub(super) fn to_owned(&self) -> OwnedPublication<O> {
        OwnedPublication {
            topic: self.topic.into(),
            body: Bytes::copy_from_slice(self.body),
            origin: self.origin.copied(),
            trace: self.trace.cloned(),
        }
    }
}

impl<O> OwnedPublication<O> {
    pub(super) fn borrow(&self) -> Publication<'_, O> {
        Publication { topic: &self.topic, body: &self.body, origin: self.origin.as_ref(), trace: self.trace.as_ref() }
    }
}

impl<O> Default for Batch<O> {
    fn default() -> Self {
        Self { entries: Vec::new(), topics: String::new(), copies: Vec::new(), bytes: 0, withdrawn: 0 }
    }
}

impl<O> Batch<O> {
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.withdrawn
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the total size of all topics and bodies, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn iter(&self) -> Publications<'_, O> {
        Publications { entries: self.entries.iter(), topics: &self.topics, copies: &self.copies }
    }

    pub(super) fn push(&mut self, topic: &str, body: Cow<'_, Bytes>, origin: Option<O>, trace: Trace) {
        // Topics of plugins have at most 256 bytes, and those of the host are even shorter.
        let topic = &topic[..topic.floor_char_boundary(usize::from(u16::MAX))];
        self.bytes += topic.len() + body.len();
        self.topics.push_str(topic);
        let body = if body.len() < MIN_SHARED_BYTES {
            self.copies.extend_from_slice(&body);
            Body::Copied(body.len())
        } else {
            Body::Shared(body.into_owned())
        };
        let topic_len = u16::try_from(topic.len()).unwrap_or(u16::MAX);
        self.entries.push(Entry { topic_len, body, origin, trace, is_withdrawn: false });
    }

    /// Withdraws the publishes for which `is_stale` returns true. [`iter`](Self::iter) skips withdrawn publishes.
    pub(super) fn withdraw(&mut self, mut is_stale: impl FnMut(Publication<'_, O>) -> bool) {
        let (mut topics, mut copies) = (&*self.topics, &*self.copies);
        for entry in &mut self.entries {
            let publication = entry.publication(&mut topics, &mut copies);
            if !entry.is_withdrawn && is_stale(publication) {
                entry.is_withdrawn = true;
                self.withdrawn += 1;
            }
        }
    }

    /// Empties the batch, and releases memory beyond [`MAX_KEPT_BYTES`] that a burst has taken.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.topics.clear();
        self.copies.clear();
        self.bytes = 0;
        self.withdrawn = 0;
        self.entries.shrink_to(MAX_KEPT_BYTES / size_of::<Entry<O>>());
        self.topics.shrink_to(MAX_KEPT_BYTES);
        self.copies.shrink_to(MAX_KEPT_BYTES);
    }
}

impl<'a, O> Iterator for Publications<'a, O> {
    type Item = Publication<'a, O>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = self.entries.next()?;
            let publication = entry.publication(&mut self.topics, &mut self.copies);
            if !entry.is_withdrawn {
                return Some(publication);
            }
        }
    }
}

impl<O> Entry<O> {
    /// Returns the entry's publish. Takes its topic and its body from the fronts of `topics` and `copies`.
    fn publication<'e, 't: 'e>(&'e self, topics: &mut &'t str, copies: &mut &'t [u8]) -> Publication<'e, O> {
        let (topic, rest) = topics.split_at(self.topic_len.into());
        *topics = rest;
        let body = match &self.body {
            Body::Shared(body) => body,
            Body::Copied(len) => {
                let (body, rest) = copies.split_at(*len);
                *copies = rest;
                body
            }
        };
        Publication { topic, body, origin: self.origin.as_ref(), trace: self.trace.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_takes_no_more_room() {
        // An origin of the gateway has 24 bytes: a UUID, and the header of a packet.
        assert_eq!(size_of::<Entry<[u32; 6]>>(), 72);
    }
}
