//! A limit on log lines that strangers and plugins can cause: one line per second for each cause. Further lines are
//! suppressed and counted.
//!
//! The count is logged at the end of the interval in a line of its own. So the count never appears next to another
//! cause, and never minutes later.

use crate::{sync::uptime::now_ms, telemetry::text};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How long further lines of a cause are suppressed after one line, in milliseconds.
const INTERVAL_MS: u64 = 1000;

/// The maximum number of causes that have a limit each. Further causes share a limit, so that invented subjects
/// cost no memory.
const MAX_CAUSES: usize = 1024;

/// The subject of all causes beyond [`MAX_CAUSES`].
const OTHERS: &str = "(others)";

/// The maximum number of bytes of a subject that are kept.
const MAX_SUBJECT_BYTES: usize = 128;

/// The limits of all causes.
#[derive(Debug, Default)]
pub struct LogLimits(Mutex<HashMap<Cause, Interval>>);

/// Why a line is written, such as `packet refused`, and what it is about, such as a plugin's name or a status.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Cause {
    what: &'static str,
    subject: String,
}

#[derive(Debug)]
struct Interval {
    ends_ms: u64,
    suppressed: u64,
}

impl LogLimits {
    /// Returns whether a line of this cause may be written now. If it may not, counts the line as suppressed.
    pub fn permit(&self, what: &'static str, subject: &str) -> bool {
        self.permit_at(now_ms(), what, subject)
    }

    /// Logs how many lines were suppressed in the intervals that have ended. Must be called about once a second.
    pub fn log_suppressed(&self) {
        for (Cause { what, subject }, suppressed) in self.ended(now_ms()) {
            tracing::warn!(what, subject, suppressed, "more log lines of this kind were suppressed in the last second");
        }
    }

    fn permit_at(&self, now: u64, what: &'static str, subject: &str) -> bool {
        let mut causes = self.causes();
        let mut cause = Cause { what, subject: text::bounded_to(MAX_SUBJECT_BYTES, subject) };
        if causes.len() >= MAX_CAUSES && !causes.contains_key(&cause) {
            OTHERS.clone_into(&mut cause.subject);
        }
        match causes.get_mut(&cause) {
            Some(interval) => {
                interval.suppressed += 1;
                false
            }
            None => {
                causes.insert(cause, Interval { ends_ms: now + INTERVAL_MS, suppressed: 0 });
                true
            }
        }
    }

    /// Removes the intervals that have ended. Returns each cause with suppressed lines, and the number of these lines.
    fn ended(&self, now: u64) -> Vec<(Cause, u64)> {
        let mut ended = Vec::new();
        self.causes().retain(|cause, interval| {
            let live = now < interval.ends_ms;
            if !live && interval.suppressed > 0 {
                ended.push((cause.clone(), interval.suppressed));
            }
            live
        });
        ended
    }

    fn causes(&self) -> MutexGuard<'_, HashMap<Cause, Interval>> {
        // No code panics in the middle of a change under this lock, so a poisoned map is still consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_may_log_one_line_per_interval_and_suppressed_lines_are_counted() {
        let limits = LogLimits::default();
        let permit = |now, what, subject| limits.permit_at(now, what, subject);
        assert_eq!([permit(0, "a", "1"), permit(1, "a", "1"), permit(2, "a", "1")], [true, false, false]);
        assert_eq!([permit(3, "a", "2"), permit(4, "b", "1")], [true, true]);
        assert_eq!(limits.ended(INTERVAL_MS - 1), []);
        let ended = limits.ended(INTERVAL_MS + 4);
        assert_eq!(ended, [(Cause { what: "a", subject: "1".to_owned() }, 2)]);
        assert!(permit(INTERVAL_MS + 5, "a", "1"));
    }

    #[test]
    fn invented_subjects_share_one_limit() {
        let limits = LogLimits::default();
        let permitted = (0..2 * MAX_CAUSES).filter(|i| limits.permit_at(0, "a", &i.to_string())).count();
        assert_eq!(permitted, MAX_CAUSES + 1);
    }
}
