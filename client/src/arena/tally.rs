//! The counts of all bots together.

use std::collections::HashMap;
use std::fmt;
use std::mem;

use anyhow::bail;
use hdrhistogram::{CreationError, Histogram};
use serde_json::json;

/// The longest interval that is told apart, in microseconds: a minute. A longer one counts as a minute.
const MAX_INTERVAL_US: u64 = 60_000_000;

/// The significant decimal digits of an interval.
const DIGITS: u8 = 3;

/// The numbers that grow while bots play.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// The snapshots that arrived.
    pub(crate) snapshots: u64,
    /// The positions of others that arrived.
    pub(crate) positions: u64,
    /// The pushes that took the place of older ones.
    pub(crate) replaced: u64,
    /// The pushes that are missing in the delivery numbers.
    pub(crate) lost: u64,
    /// The changes of the rules, one for each bot that saw the change.
    pub(crate) rule_changes: u64,
    /// The packets that the gateway refused.
    pub(crate) refused: u64,
    /// The bots that were removed from their place.
    pub(crate) removed: u64,
    /// The breaks of connections after which a session went on.
    pub(crate) resumed: u64,
    /// The breaks after which a bot had to begin anew, without what it missed meanwhile.
    pub(crate) new_sessions: u64,
    /// The bots that got no connection or no place, or whose session ended.
    pub(crate) failed: u64,
}

/// What all bots together have seen.
pub(crate) struct Tally {
    pub(crate) counts: Counts,
    /// The number of bots that play.
    pub(crate) connected: u64,
    /// The number of bots in each room.
    pub(crate) rooms: HashMap<u64, u64>,
    /// The speed that the newest rules allow.
    pub(crate) speed: Option<u32>,
    /// The first reason why a bot failed or was refused.
    pub(crate) trouble: Option<String>,
    intervals: Intervals,
    last: Counts,
}

/// The times between two snapshots at one client, in microseconds. The ranges are fixed, so recording allocates nothing.
struct Intervals {
    second: Histogram<u64>,
    total: Histogram<u64>,
}

impl Tally {
    pub(crate) fn new() -> Result<Self, CreationError> {
        let histogram = || Histogram::new_with_bounds(1, MAX_INTERVAL_US, DIGITS);
        Ok(Self {
            counts: Counts::default(),
            connected: 0,
            rooms: HashMap::new(),
            speed: None,
            trouble: None,
            intervals: Intervals { second: histogram()?, total: histogram()? },
            last: Counts::default(),
        })
    }

    /// Takes note of the time between two snapshots at one client.
    pub(crate) fn record_interval(&mut self, us: u64) {
        self.intervals.second.saturating_record(us);
        self.intervals.total.saturating_record(us);
    }

    /// Takes note of a bot in a room.
    pub(crate) fn enter_room(&mut self, room: u64) {
        *self.rooms.entry(room).or_default() += 1;
    }

    /// Takes note of a bot that is no longer in a room.
    pub(crate) fn leave_room(&mut self, room: u64) {
        if let Some(bots) = self.rooms.get_mut(&room) {
            *bots -= 1;
            if *bots == 0 {
                self.rooms.remove(&room);
            }
        }
    }

    /// Takes note of a bot that failed.
    pub(crate) fn fail(&mut self, why: impl fmt::Display) {
        self.counts.failed += 1;
        self.trouble.get_or_insert_with(|| why.to_string());
    }

    /// Returns the line about the last second, and begins a new second.
    pub(crate) fn second(&mut self) -> String {
        let last = mem::replace(&mut self.last, self.counts);
        let snapshots = self.counts.snapshots - last.snapshots;
        let positions = self.counts.positions - last.positions;
        let line = format!(
            "{} connected, {} rooms, {snapshots} snapshots/s, {positions} positions/s, {}, {}",
            self.connected,
            self.rooms.len(),
            Interval::of(&self.intervals.second),
            self.events()
        );
        self.intervals.second.reset();
        line
    }

    /// Returns the last line for people, with the most bots that have played at a time.
    pub(crate) fn summary(&self, bots: u64, rooms: usize) -> String {
        let Counts { snapshots, positions, .. } = self.counts;
        let interval = Interval::of(&self.intervals.total);
        format!(
            "total: {bots} bots, {rooms} rooms, {snapshots} snapshots, {positions} positions, {interval}, {}",
            self.events()
        )
    }

    /// Returns the summary as one line of JSON.
    pub(crate) fn json(&self, bots: u64, rooms: usize) -> String {
        let Counts {
            snapshots,
            positions,
            replaced,
            lost,
            rule_changes,
            refused,
            removed,
            resumed,
            new_sessions,
            failed,
        } = self.counts;
        let Interval { p50, p99, max } = Interval::of(&self.intervals.total);
        json!({
            "bots": bots, "rooms": rooms, "snapshots": snapshots, "positions": positions,
            "interval_ms": { "p50": p50, "p99": p99, "max": max },
            "replaced": replaced, "lost": lost, "rule_changes": rule_changes, "speed": self.speed,
            "refused": refused, "removed": removed, "resumed": resumed, "new_sessions": new_sessions, "failed": failed,
        })
        .to_string()
    }

    /// Fails unless every bot has got messages and nothing went wrong.
    pub(crate) fn verdict(&self) -> anyhow::Result<()> {
        let Counts { snapshots, positions, lost, refused, removed, new_sessions, failed, .. } = self.counts;
        if lost + refused + removed + new_sessions + failed > 0 {
            let trouble = self.trouble.as_deref().map(|why| format!("; the first: {why}")).unwrap_or_default();
            bail!(
                "{lost} pushes lost, {refused} packets refused, {removed} bots removed, {new_sessions} sessions not \
                 resumed, {failed} bots failed{trouble}"
            );
        }
        if snapshots + positions == 0 {
            bail!("no bot has got a snapshot or a position");
        }
        Ok(())
    }

    fn events(&self) -> String {
        let Counts { replaced, lost, rule_changes, refused, removed, resumed, new_sessions, failed, .. } = self.counts;
        let breaks = match resumed + new_sessions {
            0 => String::new(),
            _ => format!(", {resumed} resumed, {new_sessions} new sessions"),
        };
        format!(
            "{replaced} replaced, {lost} lost, {rule_changes} rule changes, {refused} refused, {removed} removed, \
             {failed} failed{breaks}"
        )
    }
}

/// Quantiles of intervals in milliseconds, rounded to a tenth.
struct Interval {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Interval {
    fn of(times: &Histogram<u64>) -> Self {
        let ms = |us: u64| (us as f64 / 100.0).round() / 10.0;
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| ms(times.value_at_quantile(part)));
        Self { p50, p99, max }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, max } = self;
        write!(f, "interval p50 {p50:.1} p99 {p99:.1} max {max:.1} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> Tally {
        let mut tally = Tally::new().unwrap();
        tally.connected = 3;
        [1, 1, 2].into_iter().for_each(|room| tally.enter_room(room));
        (1..=100).for_each(|ms| tally.record_interval(ms * 1000));
        tally.counts = Counts { snapshots: 100, replaced: 4, rule_changes: 3, ..Counts::default() };
        tally
    }

    #[test]
    fn a_line_is_about_its_second() {
        let mut tally = tally();
        let first = "3 connected, 2 rooms, 100 snapshots/s, 0 positions/s, interval p50 50.0 p99 99.0 max 100.0 ms, \
                     4 replaced, 0 lost, 3 rule changes, 0 refused, 0 removed, 0 failed";
        assert_eq!(tally.second(), first);
        tally.counts.snapshots += 5;
        tally.leave_room(1);
        tally.leave_room(2);
        tally.record_interval(7000);
        let second = tally.second();
        let begin = "3 connected, 1 rooms, 5 snapshots/s, 0 positions/s, interval p50 7.0 p99 7.0 max 7.0 ms, 4 repl";
        assert!(second.starts_with(begin), "{second}");
    }

    #[test]
    fn the_summary_is_about_everything() {
        let mut tally = tally();
        tally.second();
        tally.speed = Some(6000);
        let summary = tally.summary(3, 2);
        let begin = "total: 3 bots, 2 rooms, 100 snapshots, 0 positions, interval p50 50.0 p99 99.0 max 100.0 ms, 4 r";
        assert!(summary.starts_with(begin), "{summary}");
        let json: serde_json::Value = serde_json::from_str(&tally.json(3, 2)).unwrap();
        assert_eq!((&json["interval_ms"]["p99"], &json["snapshots"]), (&99.0.into(), &100.into()));
        assert_eq!((&json["speed"], &json["failed"], &json["rule_changes"]), (&6000.into(), &0.into(), &3.into()));
    }

    #[test]
    fn breaks_are_shown_if_there_are_any() {
        let mut tally = tally();
        assert!(tally.summary(3, 2).ends_with(" removed, 0 failed"));
        (tally.counts.resumed, tally.counts.new_sessions) = (2, 1);
        assert!(tally.summary(3, 2).ends_with(" removed, 0 failed, 2 resumed, 1 new sessions"));
        let json: serde_json::Value = serde_json::from_str(&tally.json(3, 2)).unwrap();
        assert_eq!((&json["resumed"], &json["new_sessions"]), (&2.into(), &1.into()));
        tally.counts.new_sessions = 0;
        assert!(tally.verdict().is_ok());
    }

    #[test]
    fn any_loss_fails_the_verdict() {
        assert!(tally().verdict().is_ok());
        let nothing = Tally::new().unwrap().verdict().unwrap_err();
        assert_eq!(nothing.to_string(), "no bot has got a snapshot or a position");
        let troubles: [fn(&mut Counts); 5] =
            [|it| it.lost = 1, |it| it.refused = 1, |it| it.removed = 1, |it| it.new_sessions = 1, |it| it.failed = 1];
        for trouble in troubles {
            let mut tally = tally();
            trouble(&mut tally.counts);
            assert!(tally.verdict().is_err());
        }
        let mut tally = tally();
        tally.fail("it is full");
        tally.fail("it is closed");
        let why = "0 pushes lost, 0 packets refused, 0 bots removed, 0 sessions not resumed, 2 bots failed; the first: it \
                   is full";
        assert_eq!(tally.verdict().unwrap_err().to_string(), why);
    }
}
