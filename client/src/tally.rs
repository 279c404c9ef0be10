//! The counts and the round trips of heartbeats.

use std::fmt;
use std::time::Duration;

use anyhow::bail;

/// The counts and round trips of one run.
#[derive(Default)]
pub(crate) struct Tally {
    /// The heartbeats that were sent. A heartbeat that is under way when the run ends is neither answered nor lost nor
    /// wrong.
    pub(crate) sent: u64,
    /// The heartbeats without a reply in time.
    pub(crate) lost: u64,
    /// The replies that break the protocol.
    pub(crate) wrong: u64,
    /// The replies that answer no heartbeat, and the messages that are not packets.
    pub(crate) stray: u64,
    /// The breaks of the connection after which the client came back.
    pub(crate) breaks: u64,
    /// The time without a connection in these breaks.
    pub(crate) away: Duration,
    /// One round trip for each right reply. Each takes 16 bytes, so at most a thousand a second take 58 MB an hour.
    round_trips: Vec<Duration>,
}

impl Tally {
    /// Takes note of a right reply that came after `round_trip`.
    pub(crate) fn answered(&mut self, round_trip: Duration) {
        self.round_trips.push(round_trip);
    }

    /// Fails unless at least one heartbeat was answered and nothing went wrong.
    pub(crate) fn verdict(&self) -> anyhow::Result<()> {
        if self.lost + self.wrong + self.stray > 0 {
            bail!("{} lost, {} wrong, {} stray replies", self.lost, self.wrong, self.stray);
        }
        if self.round_trips.is_empty() {
            bail!("no heartbeat was answered");
        }
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, lost, wrong, stray, breaks, away, round_trips } = self;
        write!(f, "{sent} sent, {} answered, {lost} lost, {wrong} wrong, {stray} stray", round_trips.len())?;
        if *breaks > 0 {
            let s = if *breaks == 1 { "" } else { "s" };
            write!(f, ", {breaks} break{s} of {:.1} s in all", away.as_secs_f64())?;
        }
        let mut sorted = round_trips.clone();
        sorted.sort_unstable();
        if let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) {
            let [min, median, p99, max] = [min, percentile(&sorted, 50), percentile(&sorted, 99), max].map(millis);
            write!(f, "\nround trip min/median/p99/max = {min:.3}/{median:.3}/{p99:.3}/{max:.3} ms")?;
        }
        Ok(())
    }
}

/// A duration in milliseconds, as ping(8) shows it.
pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The nearest rank: the smallest value that at least `percent` of all values do not exceed. `sorted` is not empty.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(round_trips_us: impl IntoIterator<Item = u64>) -> Tally {
        let mut tally = Tally::default();
        for us in round_trips_us {
            tally.sent += 1;
            tally.answered(Duration::from_micros(us));
        }
        tally
    }

    #[test]
    fn the_summary_sorts_the_round_trips() {
        let summary = tally((1..=1000).rev()).to_string();
        assert_eq!(
            summary,
            "1000 sent, 1000 answered, 0 lost, 0 wrong, 0 stray\n\
             round trip min/median/p99/max = 0.001/0.500/0.990/1.000 ms"
        );
    }

    #[test]
    fn few_round_trips_have_percentiles_too() {
        assert!(tally([2000]).to_string().ends_with("= 2.000/2.000/2.000/2.000 ms"));
        assert!(tally([3000, 1000]).to_string().ends_with("= 1.000/1.000/3.000/3.000 ms"));
    }

    #[test]
    fn without_answers_there_are_no_round_trips_to_show() {
        let tally = Tally { sent: 2, lost: 1, wrong: 1, ..Tally::default() };
        assert_eq!(tally.to_string(), "2 sent, 0 answered, 1 lost, 1 wrong, 0 stray");
    }

    #[test]
    fn breaks_are_in_the_summary_but_not_in_the_verdict() {
        let mut tally = tally([1]);
        (tally.breaks, tally.away) = (1, Duration::from_millis(1240));
        assert!(
            tally.to_string().starts_with("1 sent, 1 answered, 0 lost, 0 wrong, 0 stray, 1 break of 1.2 s in all\n")
        );
        tally.breaks = 2;
        assert!(tally.to_string().contains(", 2 breaks of 1.2 s in all\n"));
        assert!(tally.verdict().is_ok());
    }

    #[test]
    fn the_verdict_wants_answers_and_no_trouble() {
        assert!(tally([1]).verdict().is_ok());
        assert_eq!(tally([]).verdict().unwrap_err().to_string(), "no heartbeat was answered");
        for trouble in [|t: &mut Tally| t.lost = 1, |t: &mut Tally| t.wrong = 1, |t: &mut Tally| t.stray = 1] {
            let mut tally = tally([1]);
            trouble(&mut tally);
            assert!(tally.verdict().is_err());
        }
    }
}
