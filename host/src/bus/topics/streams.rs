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
    /// Whether plugins subscribe to the stream.
    is_fixed: bool,
    /// Whether a session or a group wants the stream.
    is_listened_to: bool,
    reading: Reading,
}

/// What the reader does with a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reading {
    /// It has no position yet.
    #[default]
    None,
    /// It leaves the stream out, because Redis refuses it.
    LeftOut,
    /// It has a position.
    Begun,
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
            let stream = self.wanted.entry(topic.into()).or_default();
            (stream.is_fixed, stream.is_listened_to) = (is_fixed, is_listened_to);
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

    /// Records in which streams a reader has a position, and which ones it leaves out. Returns whether that has
    /// changed.
    pub(super) fn begin<'a>(
        &mut self,
        begun: impl Iterator<Item = &'a Arc<str>>,
        left_out: impl Iterator<Item = &'a Arc<str>>,
    ) -> bool {
        let begun = begun.map(|stream| (stream, Reading::Begun));
        let mut has_changed = false;
        for (stream, reading) in begun.chain(left_out.map(|stream| (stream, Reading::LeftOut))) {
            if let Some(stream) = self.wanted.get_mut(stream) {
                has_changed |= mem::replace(&mut stream.reading, reading) != reading;
            }
        }
        has_changed
    }

    /// Returns whether the reader has a position in every stream that is wanted. One that plugins do not subscribe to
    /// may be left out.
    pub(super) fn have_positions(&self) -> bool {
        self.wanted.values().all(|stream| match stream.reading {
            Reading::None => false,
            Reading::LeftOut => !stream.is_fixed,
            Reading::Begun => true,
        })
    }
}
