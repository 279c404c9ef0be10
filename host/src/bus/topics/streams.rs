//! The topics that are streams, and whether the reader has a position in them.

use crate::config;
use std::{collections::BTreeMap, mem, sync::Arc};

/// The streams that are wanted.
#[derive(Debug, Default)]
pub(super) struct Streams {
    config: config::Streams,
    wanted: BTreeMap<Arc<str>, Stream>,
}

#[derive(Debug, Default)]
struct Stream {
    /// Whether a session or a group wants the stream.
    is_listened_to: bool,
    /// Whether the reader has a position in the stream.
    has_position: bool,
}

impl Streams {
    pub(super) fn new(config: config::Streams) -> Self {
        Self { config, wanted: BTreeMap::new() }
    }

    /// Returns whether a topic is a stream.
    pub(super) fn contains(&self, topic: &str) -> bool {
        self.config.contains(topic)
    }

    /// Changes the state of a stream. `is_fixed` says whether it is one of the fixed topics, and `is_listened_to` whether
    /// a session or a group wants it.
    pub(super) fn update(&mut self, topic: &str, is_fixed: bool, is_listened_to: bool) {
        if is_fixed || is_listened_to {
            self.wanted.entry(topic.into()).or_default().is_listened_to = is_listened_to;
        } else {
            self.wanted.remove(topic);
        }
    }

    /// Returns whether a session or a group wants the stream.
    pub(super) fn is_listened_to(&self, topic: &str) -> bool {
        self.wanted.get(topic).is_some_and(|stream| stream.is_listened_to)
    }

    pub(super) fn wanted(&self) -> Vec<Arc<str>> {
        self.wanted.keys().cloned().collect()
    }

    /// Records that a reader has a position in these streams. Returns whether it had none in one of them before.
    pub(super) fn begin<'a>(&mut self, streams: impl Iterator<Item = &'a Arc<str>>) -> bool {
        let mut is_new = false;
        for stream in streams {
            if let Some(stream) = self.wanted.get_mut(stream) {
                is_new |= !mem::replace(&mut stream.has_position, true);
            }
        }
        is_new
    }

    /// Returns whether the reader has a position in every stream that is wanted.
    pub(super) fn have_positions(&self) -> bool {
        self.wanted.values().all(|stream| stream.has_position)
    }
}
