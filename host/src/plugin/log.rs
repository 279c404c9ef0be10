//! The log of a plugin, with a limit on lines per second.

use super::bindings::Level;
use crate::telemetry::text;
use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The time for which the lines are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// The lines that a plugin has logged in this second. All its instances share them. Otherwise each instance that takes
/// the place of one that has failed could log as much again.
#[derive(Debug, Default)]
pub(super) struct Lines(Mutex<Window>);

#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
    suppressed: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { began: Instant::now(), lines: 0, suppressed: 0 }
    }
}

/// Whether a line may be logged.
#[derive(Debug, PartialEq, Eq)]
enum Permit {
    Granted,
    /// The line is the first one over the limit.
    First,
    Refused,
}

impl Lines {
    /// Counts a line. Also returns how many lines were suppressed in the last second, if it has just ended.
    fn count(&self, most: u32, now: Instant) -> (Permit, u64) {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ended = 0;
        if now.saturating_duration_since(window.began) >= WINDOW {
            ended = mem::replace(&mut *window, Window { began: now, lines: 0, suppressed: 0 }).suppressed;
        }
        let permit = if window.lines < most {
            window.lines += 1;
            Permit::Granted
        } else {
            window.suppressed += 1;
            if window.suppressed == 1 { Permit::First } else { Permit::Refused }
        };
        (permit, ended)
    }

    /// Returns how many lines were suppressed that nobody has been told of.
    fn take_suppressed(&self) -> u64 {
        mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).suppressed)
    }
}

/// The log of one instance.
pub(super) struct Log {
    plugin: Arc<str>,
    /// The setting `log_lines_per_s`.
    most: u32,
    lines: Arc<Lines>,
}

impl Log {
    pub(super) fn new(plugin: Arc<str>, most: u32, lines: Arc<Lines>) -> Self {
        Self { plugin, most, lines }
    }

    pub(super) fn write(&self, level: Level, line: &str) {
        let plugin = &*self.plugin;
        let (permit, suppressed) = self.lines.count(self.most, Instant::now());
        self.log_suppressed(suppressed);
        match permit {
            Permit::Granted => {}
            Permit::First => {
                let most = self.most;
                return tracing::warn!(plugin, "the plugin logs more than {most} lines a second (`log_lines_per_s`)");
            }
            Permit::Refused => return,
        }
        // Control characters are escaped, so a plugin cannot forge lines of others.
        let line = text::escaped(line);
        match level {
            Level::Error => tracing::error!(target: "plugin", plugin, line),
            Level::Warn => tracing::warn!(target: "plugin", plugin, line),
            Level::Info => tracing::info!(target: "plugin", plugin, line),
            Level::Debug => tracing::debug!(target: "plugin", plugin, line),
        }
    }

    fn log_suppressed(&self, suppressed: u64) {
        if suppressed > 0 {
            tracing::warn!(plugin = &*self.plugin, suppressed, "log lines of the plugin were suppressed");
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Another instance may still log in this second. Then the line comes twice, with a part of the number each.
        self.log_suppressed(self.lines.take_suppressed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instances_of_a_plugin_share_its_lines_in_a_second() {
        let (lines, began) = (Lines::default(), Instant::now());
        let counts = |after_ms, tries| {
            let now = began + Duration::from_millis(after_ms);
            (0..tries).map(|_| lines.count(3, now)).collect::<Vec<_>>()
        };
        let granted =
            |counted: &[(Permit, u64)]| counted.iter().filter(|(permit, _)| *permit == Permit::Granted).count();
        assert_eq!(granted(&counts(0, 2)), 2);
        let counted = counts(500, 5);
        assert_eq!(granted(&counted), 1);
        assert_eq!(
            counted[1..].iter().map(|(permit, _)| permit == &Permit::First).collect::<Vec<_>>(),
            [true, false, false, false]
        );
        let counted = counts(1600, 4);
        assert_eq!((granted(&counted), counted[0].1, counted[1].1), (3, 4, 0));
        assert_eq!((lines.take_suppressed(), lines.take_suppressed()), (1, 0));
    }
}
