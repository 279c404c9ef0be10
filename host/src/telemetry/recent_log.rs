//! The last warnings and errors of the log, for operators who look at the admin listener instead of the log.
//!
//! The ring is bounded in lines and in bytes, whatever is logged. It does not follow `RUST_LOG`, so that a log that is
//! filtered or discarded still shows what is wrong.

use super::text;
use crate::sync::uptime::unix_ms;
use serde::Serialize;
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, Filter},
    registry::LookupSpan,
};

/// The maximum number of lines that are kept.
const MAX_LINES: usize = 200;

/// The maximum number of lines with the same message. So clients that cause one warning again and again cannot push the
/// others out.
const MAX_SAME: usize = 20;

/// The maximum number of bytes of one line's texts. What exceeds it is cut.
const MAX_LINE_BYTES: usize = 16 << 10;

/// The maximum number of bytes that all lines take together.
const MAX_BYTES: usize = 512 << 10;

/// The bytes that a line takes in addition to its texts, and those of each of its fields.
const OVERHEAD_BYTES: usize = 128;

/// The last warnings and errors. Clones share the lines.
#[derive(Clone, Debug, Default)]
pub struct RecentLog(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
    last: u64,
}

/// A line of the log.
#[derive(Debug, Serialize)]
pub struct Line {
    /// The number of the line among all warnings and errors of the process, from 1.
    pub number: u64,
    /// When the line was logged, in milliseconds since 1970.
    pub at_ms: u64,
    /// `WARN` or `ERROR`.
    pub level: &'static str,
    /// The module that logged the line, or `plugin`.
    pub target: String,
    /// The text of the line.
    pub message: String,
    /// The other fields of the line.
    pub fields: BTreeMap<&'static str, String>,
    #[serde(skip)]
    bytes: usize,
}

impl RecentLog {
    /// Returns a layer that keeps the warnings and errors of all subscribers that it is a part of.
    pub fn layer<S: Subscriber + for<'span> LookupSpan<'span>>(&self) -> impl Layer<S> + use<S> {
        // The filter is part of the layer. Without one, the layer would switch on all lines of all levels.
        let only: Box<dyn Filter<S> + Send + Sync> = Box::new(LevelFilter::WARN);
        Recorder(self.clone()).with_filter(only)
    }

    /// Returns the lines after the one with this number, the oldest first, and the number of the last line.
    #[must_use]
    pub fn after(&self, number: u64) -> (Vec<Arc<Line>>, u64) {
        let ring = self.ring();
        let lines = ring.lines.iter().filter(|line| line.number > number).cloned().collect();
        (lines, ring.last)
    }

    fn push(&self, mut line: Line) {
        let mut ring = self.ring();
        ring.last += 1;
        line.number = ring.last;
        ring.make_room_for_same(&line);
        ring.bytes += line.bytes;
        ring.lines.push_back(Arc::new(line));
        while ring.lines.len() > MAX_LINES || ring.bytes > MAX_BYTES {
            let Some(oldest) = ring.lines.pop_front() else { break };
            ring.bytes -= oldest.bytes;
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // No code panics in the middle of a change under this lock, so a poisoned ring is still consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// Removes the oldest line with the same message, and of the same plugin, if there are as many as there may be.
    fn make_room_for_same(&mut self, new: &Line) {
        let is_same = |line: &Arc<Line>| {
            let plugin = |line: &Line| line.fields.get("plugin").cloned();
            line.target == new.target && line.message == new.message && plugin(line) == plugin(new)
        };
        let mut same = self.lines.iter().enumerate().filter(|(_, line)| is_same(line)).map(|(index, _)| index);
        let oldest = same.next();
        if 1 + same.count() >= MAX_SAME
            && let Some(removed) = oldest.and_then(|index| self.lines.remove(index))
        {
            self.bytes -= removed.bytes;
        }
    }
}

struct Recorder(RecentLog);

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut line = Line {
            number: 0,
            at_ms: unix_ms(),
            level: metadata.level().as_str(),
            target: metadata.target().to_owned(),
            message: String::new(),
            fields: BTreeMap::new(),
            bytes: OVERHEAD_BYTES,
        };
        event.record(&mut line);
        self.0.push(line);
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, format_args!("{value:?}"));
    }
}

impl Line {
    fn record(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let name = field.name();
        // Lines of libraries that use the crate `log` have the place in their source as fields.
        if name.starts_with("log.") {
            return;
        }
        let left = MAX_LINE_BYTES.saturating_sub(self.bytes);
        let value = text::bounded_to(left.min(text::MAX_TEXT_BYTES), value);
        self.bytes += value.len() + OVERHEAD_BYTES;
        if name == "message" {
            self.message = value;
        } else {
            self.fields.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::{Registry, layer::SubscriberExt};

    /// Runs the code with a log that only keeps its last lines, and returns these.
    fn recorded(log: impl FnOnce()) -> (Vec<Arc<Line>>, u64) {
        let recent = RecentLog::default();
        tracing::subscriber::with_default(Registry::default().with(recent.layer()), log);
        recent.after(0)
    }

    #[test]
    fn warnings_and_errors_are_kept_with_their_fields() {
        let before = unix_ms();
        let (lines, last) = recorded(|| {
            tracing::info!("not kept");
            tracing::error!(plugin = "chat", routes = ?[1, 2], why = %"a\nb\u{202e}", count = 7, "it {}", "fails");
            tracing::debug!("not kept");
            tracing::warn!(target: "plugin", "hm");
        });
        assert_eq!((lines.len(), last), (2, 2));
        let (error, warning) = (&lines[0], &lines[1]);
        assert_eq!((error.number, error.level, &*error.message), (1, "ERROR", "it fails"));
        assert!(error.target.ends_with("recent_log::tests"), "{}", error.target);
        assert!((before..=unix_ms()).contains(&error.at_ms));
        let fields: Vec<_> = error.fields.iter().map(|(name, value)| (*name, &**value)).collect();
        let expected = [("count", "7"), ("plugin", "chat"), ("routes", "[1, 2]"), ("why", r"a\nb\u{202e}")];
        assert_eq!(fields, expected);
        assert_eq!((warning.number, warning.level, &*warning.target, &*warning.message), (2, "WARN", "plugin", "hm"));
    }

    #[test]
    fn only_the_newest_lines_are_kept() {
        let (lines, last) = recorded(|| (0..MAX_LINES + 50).for_each(|i| tracing::warn!("{i}")));
        let messages: Vec<_> = lines.iter().map(|line| line.message.parse::<usize>().unwrap()).collect();
        assert_eq!(messages, (50..MAX_LINES + 50).collect::<Vec<_>>());
        assert_eq!(last, MAX_LINES as u64 + 50);
    }

    #[test]
    fn a_message_that_comes_again_and_again_pushes_only_itself_out() {
        let (lines, last) = recorded(|| {
            tracing::warn!("the reason");
            (0..1000).for_each(|i| tracing::warn!(i, "noise"));
        });
        assert_eq!((lines.len(), last), (1 + MAX_SAME, 1001));
        assert_eq!((&*lines[0].message, &*lines[1].fields["i"]), ("the reason", "980"));
    }

    #[test]
    fn long_lines_are_cut_and_take_the_place_of_more_than_one() {
        let long = "x".repeat(1 << 20);
        let (lines, _) = recorded(|| {
            for i in 0..MAX_LINES {
                tracing::warn!(a = long, b = %long, c = ?long, d = long, e = long, f = long, "{i} {long}");
            }
        });
        assert!((10..MAX_LINES).contains(&lines.len()), "{}", lines.len());
        let texts = |line: &Arc<Line>| line.message.len() + line.fields.values().map(String::len).sum::<usize>();
        let longest = lines.iter().map(texts).max().unwrap();
        assert!(longest > MAX_LINE_BYTES / 2 && longest <= MAX_LINE_BYTES + 64, "{longest}");
        assert!(lines.iter().map(texts).sum::<usize>() <= MAX_BYTES);
    }

    #[test]
    fn a_reader_gets_what_is_new() {
        let recent = RecentLog::default();
        tracing::subscriber::with_default(Registry::default().with(recent.layer()), || {
            assert_eq!(recent.after(0).1, 0);
            tracing::warn!("a");
            tracing::warn!("b");
            let (lines, last) = recent.after(1);
            assert_eq!((lines.len(), &*lines[0].message, last), (1, "b", 2));
            assert!(recent.after(2).0.is_empty() && recent.after(99).0.is_empty());
        });
    }
}
