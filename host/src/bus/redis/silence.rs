//! Decides when the subscribing connection is asked whether it still works, when it is late, and when it is given up.
//!
//! Silence alone proves nothing: a gateway whose policies are slow reads late, and a connection that carries other bytes
//! may have lost its subscription. So a `PING` is sent, and Redis keeps an order on each connection. A message that Redis
//! counted as received before it got the `PING` must arrive before the answer to the `PING`. And the answer must arrive
//! before a message that was published long after the `PING` was sent.

use std::{mem, time::Duration};
use tokio::time::Instant;

/// The state of one connection. It does no I/O, and its clock is passed in.
#[derive(Debug)]
pub(super) struct Silence {
    interval: Duration,
    timeout: Duration,
    /// When bytes last arrived.
    arrived: Instant,
    /// Since when a confirmation of the topics is expected.
    confirming: Option<Instant>,
    /// Since when a probe is expected that Redis has passed on.
    awaited: Option<Instant>,
    /// The number of the last probe that Redis has passed on to this connection.
    passed_on: u64,
    /// The number of the last probe that arrived.
    heard: u64,
    /// The `PING` that is not answered yet.
    asked: Option<Asked>,
    /// The earliest time of the next step, if the last step was late.
    not_before: Option<Instant>,
}

/// A `PING` that is not answered yet.
#[derive(Debug)]
struct Asked {
    at: Instant,
    /// The beginning of the time in which something must arrive.
    since: Instant,
    /// The number of the last probe that must arrive before the answer.
    passed_on: u64,
    /// Whether nothing has arrived for so long that the connection counts as late.
    is_late: bool,
    /// The first probe that was passed on when the answer was due. The answer must not come after it.
    too_late: Option<u64>,
}

/// What follows from bytes that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// Whether the connection was late.
    pub(super) was_late: bool,
    /// Whether a `PING` has to be sent. It shows that the server still gets what is written.
    pub(super) is_ping_due: bool,
}

/// What has to be done when the time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, because this task did not run when the time had come. What has arrived is read first.
    Read,
    /// Send a `PING`.
    Ping,
    /// Report the connection as late.
    Late,
    /// Give the connection up.
    GiveUp,
}

/// The error for an answer to a `PING` that overtook a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overtaken;

impl Silence {
    /// Returns the state of a connection on which bytes arrived at the time `now`.
    pub(super) fn new(interval: Duration, timeout: Duration, now: Instant) -> Self {
        Self {
            interval,
            timeout,
            arrived: now,
            confirming: None,
            awaited: None,
            passed_on: 0,
            heard: 0,
            asked: None,
            not_before: None,
        }
    }

    /// Records that a confirmation of the topics was requested.
    pub(super) fn confirming(&mut self, now: Instant) {
        self.confirming = Some(now);
    }

    /// Records that the topics are confirmed.
    pub(super) fn confirmed(&mut self) {
        self.confirming = None;
    }

    /// Records that Redis has passed a probe on to this connection.
    pub(super) fn passed_on(&mut self, number: u64, now: Instant) {
        self.passed_on = number;
        if number > self.heard {
            self.awaited.get_or_insert(now);
        }
        if let Some(asked) = &mut self.asked
            && now >= asked.at + self.timeout
        {
            asked.too_late.get_or_insert(number);
        }
    }

    /// Records that bytes arrived, and which probe was the last among all that have arrived so far.
    pub(super) fn arrived(&mut self, now: Instant, heard: u64) -> Arrival {
        let is_probe = heard > self.heard;
        if is_probe {
            self.heard = heard;
            self.awaited = (self.passed_on > heard).then_some(now);
        }
        self.arrived = now;
        self.not_before = None;
        let was_late = self.asked.as_mut().is_some_and(|asked| mem::take(&mut asked.is_late));
        let is_ping_due = is_probe && self.asked.is_none();
        if is_ping_due {
            self.ask(now, Duration::ZERO);
        }
        Arrival { was_late, is_ping_due }
    }

    /// Records that a `PING` is sent, after something was expected for the time `waited`.
    fn ask(&mut self, now: Instant, waited: Duration) {
        let since = now.checked_sub(waited).unwrap_or(now);
        let passed_on = self.passed_on;
        self.asked = Some(Asked { at: now, since, passed_on, is_late: false, too_late: None });
    }

    /// Records the answer to the `PING`.
    ///
    /// # Errors
    /// Returns an error if a probe that must arrive before the answer has not arrived.
    pub(super) fn answered(&mut self, now: Instant) -> Result<(), Overtaken> {
        let Some(asked) = self.asked.take() else { return Ok(()) };
        if asked.passed_on > self.heard {
            return Err(Overtaken);
        }
        self.awaited = self.awaited.map(|_| now);
        Ok(())
    }

    /// Returns whether a probe has arrived although the answer to the `PING` had to come before it. Then the server gets
    /// nothing of what is written.
    pub(super) fn is_unheard(&self) -> bool {
        self.asked.as_ref().and_then(|asked| asked.too_late).is_some_and(|number| self.heard >= number)
    }

    /// Returns the time of the next step.
    pub(super) fn due(&self) -> Instant {
        let due = match &self.asked {
            Some(asked) if asked.is_late => asked.since.max(self.arrived) + self.timeout,
            Some(asked) => asked.since.max(self.arrived) + self.timeout / 2,
            None => {
                let expected = [self.confirming, self.awaited].into_iter().flatten().min();
                expected.unwrap_or(self.arrived + self.interval) + self.timeout / 4
            }
        };
        self.not_before.map_or(due, |not_before| due.max(not_before))
    }

    /// Returns what has to be done now. It is called when the time of the next step has come.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        // If this task did not run, because a policy took long or the machine was busy, nothing was read either.
        let slack = self.timeout / 8;
        if self.not_before.is_none() && now > self.due() + slack {
            self.not_before = Some(now + slack);
            return Step::Read;
        }
        match &mut self.asked {
            None => {
                self.ask(now, self.timeout / 4);
                Step::Ping
            }
            Some(asked) if !asked.is_late => {
                asked.is_late = true;
                Step::Late
            }
            Some(_) => Step::GiveUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(1000);
    const TIMEOUT: Duration = Duration::from_millis(2000);

    /// A connection, and the time at which it was made. All times of the tests are milliseconds since then.
    struct Line {
        silence: Silence,
        began: Instant,
    }

    impl Line {
        fn new() -> Self {
            let began = Instant::now();
            Self { silence: Silence::new(INTERVAL, TIMEOUT, began), began }
        }

        fn at(&self, ms: u64) -> Instant {
            self.began + Duration::from_millis(ms)
        }

        fn passed_on(&mut self, number: u64, ms: u64) {
            let now = self.at(ms);
            self.silence.passed_on(number, now);
        }

        /// Returns whether the connection was late, and whether a ping is due.
        fn arrived(&mut self, ms: u64, heard: u64) -> (bool, bool) {
            let now = self.at(ms);
            let Arrival { was_late, is_ping_due } = self.silence.arrived(now, heard);
            (was_late, is_ping_due)
        }

        fn answered(&mut self, ms: u64) -> Result<(), Overtaken> {
            let now = self.at(ms);
            self.silence.answered(now)
        }

        /// Asserts when the next step is due and what it is, and takes it.
        #[track_caller]
        fn steps(&mut self, ms: u64, step: Step) {
            let due = self.silence.due();
            assert_eq!(due.duration_since(self.began), Duration::from_millis(ms));
            assert_eq!(self.silence.step(due), step);
        }
    }

    #[test]
    fn a_connection_that_hears_its_probes_and_answers_is_never_late() {
        let mut line = Line::new();
        for number in 1..100 {
            let now = number * 1000;
            assert!(line.silence.due() > line.at(now));
            line.passed_on(number, now);
            assert_eq!(line.arrived(now + 1, number), (false, true));
            assert_eq!((line.arrived(now + 2, number), line.answered(now + 2)), ((false, false), Ok(())));
            assert!(!line.silence.is_unheard());
        }
        // The message may also arrive before the publisher has its answer.
        assert_eq!((line.arrived(100_000, 100), line.answered(100_001)), ((false, true), Ok(())));
        line.passed_on(100, 100_001);
        assert_eq!(line.silence.due(), line.at(101_500));
    }

    #[test]
    fn a_server_that_gets_no_commands_is_found_although_messages_arrive() {
        let mut line = Line::new();
        line.passed_on(1, 1000);
        assert_eq!(line.arrived(1001, 1), (false, true));
        for (number, is_unheard) in [(2, false), (3, false), (4, true)] {
            line.passed_on(number, number * 1000);
            assert_eq!(line.arrived(number * 1000 + 1, number), (false, false));
            assert_eq!(line.silence.is_unheard(), is_unheard, "{number}");
        }
        // The message may also arrive before the publisher has its answer.
        let mut line = Line::new();
        line.arrived(1001, 1);
        line.arrived(4000, 4);
        assert!(!line.silence.is_unheard());
        line.passed_on(4, 4001);
        assert!(line.silence.is_unheard());
    }

    #[test]
    fn silence_is_asked_then_late_and_then_given_up_one_timeout_after_the_probe_was_passed_on() {
        let mut line = Line::new();
        line.arrived(100, 0);
        line.passed_on(1, 1000);
        line.steps(1500, Step::Ping);
        line.passed_on(2, 1600);
        line.steps(2000, Step::Late);
        line.steps(3000, Step::GiveUp);
    }

    #[test]
    fn silence_after_a_probe_is_given_up_one_timeout_after_the_last_bytes() {
        let mut line = Line::new();
        assert_eq!(line.arrived(1000, 1), (false, true));
        line.steps(2000, Step::Late);
        line.steps(3000, Step::GiveUp);
    }

    #[test]
    fn without_probes_silence_is_asked_after_the_interval() {
        let mut line = Line::new();
        line.arrived(100, 0);
        line.steps(1600, Step::Ping);
        assert_eq!((line.arrived(1601, 0), line.answered(1601)), ((false, false), Ok(())));
        line.steps(3101, Step::Ping);
        line.steps(3601, Step::Late);
        assert_eq!(line.arrived(3700, 0), (true, false), "it was late");
        assert_eq!(line.arrived(3701, 0), (false, false), "it is late only once");
        line.steps(4701, Step::Late);
        line.steps(5701, Step::GiveUp);
    }

    #[test]
    fn an_answer_before_the_probe_proves_that_the_subscription_is_lost_whatever_else_arrives() {
        let mut line = Line::new();
        line.passed_on(1, 1000);
        line.arrived(1400, 0);
        line.steps(1500, Step::Ping);
        line.arrived(1501, 0);
        assert_eq!(line.answered(1501), Err(Overtaken));
    }

    #[test]
    fn a_connection_with_a_backlog_is_kept() {
        let mut line = Line::new();
        line.passed_on(1, 1000);
        line.arrived(1400, 0);
        line.steps(1500, Step::Ping);
        for ms in (1900..60_000).step_by(400) {
            line.passed_on(ms / 1000, ms);
            line.arrived(ms, 0);
            assert!(line.silence.due() > line.at(ms + 400) && !line.silence.is_unheard(), "{ms}");
        }
        line.arrived(60_000, 58);
        assert_eq!(line.answered(60_000), Ok(()));
        // The last probe was passed on after the ping was sent, so it may come after the answer.
        line.steps(60_500, Step::Ping);
        line.arrived(60_600, 59);
        assert_eq!(line.answered(60_600), Ok(()));
        line.steps(62_100, Step::Ping);
    }

    #[test]
    fn a_confirmation_is_expected_within_the_timeout() {
        let mut line = Line::new();
        line.silence.confirming(line.began);
        line.steps(500, Step::Ping);
        line.steps(1000, Step::Late);
        line.steps(2000, Step::GiveUp);
        let mut line = Line::new();
        line.silence.confirming(line.began);
        line.silence.confirmed();
        line.steps(1500, Step::Ping);
    }

    #[test]
    fn time_in_which_the_task_did_not_run_is_no_silence() {
        let mut line = Line::new();
        line.passed_on(1, 1000);
        line.steps(1500, Step::Ping);
        let late = line.at(9000);
        assert_eq!(line.silence.step(late), Step::Read);
        line.steps(9250, Step::Late);
        // It is excused once. A machine that is always busy must not hide a dead connection for ever.
        let late = line.at(20_000);
        assert_eq!(line.silence.step(late), Step::GiveUp);
        line.arrived(20_001, 0);
        let late = line.at(30_000);
        assert_eq!(line.silence.step(late), Step::Read);
    }
}
