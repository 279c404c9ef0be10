//! Runs a table against a plugin, which may be a component or a native policy.

use crate::{Action, Case, Expect, Message, Packet, Rejection, Suite, Table};
use serde_json::Value;
use std::fmt;

/// The outcome of a call: the plugin's actions or rejection. The outer error is the text of a trap.
pub type Outcome = Result<Result<Vec<Action>, Rejection>, String>;

/// A new instance of a plugin, on which [`run`] runs the calls of a suite.
pub trait Subject {
    /// Calls `configure`, and returns the topics that the plugin subscribes to.
    ///
    /// # Errors
    /// The outer error is the text of a trap. The inner error is the text with which the plugin refuses the settings.
    fn configure(&mut self, settings: &str) -> Result<Result<Vec<String>, String>, String>;

    /// Calls `on-packet` with the route `route`. The field `route` of the packet is ignored.
    fn packet(&mut self, packet: &Packet, route: u8) -> Outcome;

    /// Calls `on-message`.
    fn message(&mut self, message: &Message) -> Outcome;
}

/// A check whose outcome differs from the table.
#[derive(Debug)]
pub struct Failure {
    /// The number of the suite, counted from 1.
    pub suite: usize,
    /// The name of the case, or `None` if the check of the settings failed.
    pub case: Option<String>,
    /// The expected outcome and the actual outcome, as a text.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let case = self.case.as_deref().unwrap_or("settings");
        write!(f, "suite {}, {case}: {}", self.suite, self.what)
    }
}

/// Runs the table, and returns the number of checks that passed and the checks that failed.
///
/// `fresh` creates an instance. `run` calls `fresh` once per suite, and once more after each trap.
pub fn run<S: Subject>(table: &Table, mut fresh: impl FnMut() -> Result<S, String>) -> (usize, Vec<Failure>) {
    let (mut passed, mut failures) = (0, Vec::new());
    for (number, suite) in (1..).zip(&table.suites) {
        let mut check = |case: Option<&str>, outcome: Result<(), String>| match outcome {
            Ok(()) => passed += 1,
            Err(what) => failures.push(Failure { suite: number, case: case.map(str::to_owned), what }),
        };
        let mut subject = match configured(suite, &mut fresh) {
            Ok(subject) => {
                check(None, Ok(()));
                subject
            }
            Err(what) => {
                check(None, Err(what));
                continue;
            }
        };
        for case in &suite.cases {
            let outcome =
                subject.as_mut().map_or_else(|| Err("the settings were refused".to_owned()), |s| call(s, suite, case));
            let trapped = outcome.is_err();
            check(Some(&case.name), compare(&case.expect, outcome));
            if trapped {
                subject = configured(suite, &mut fresh).ok().flatten();
            }
        }
    }
    (passed, failures)
}

/// Creates and configures an instance for a suite. Returns `None` if the plugin refuses the settings, as the suite
/// expects.
fn configured<S: Subject>(suite: &Suite, fresh: &mut impl FnMut() -> Result<S, String>) -> Result<Option<S>, String> {
    let mut subject = fresh()?;
    let answer = subject.configure(&suite.settings.to_string()).map_err(|trap| format!("configure trapped: {trap}"))?;
    match (answer, &suite.refused) {
        (Ok(_), Some(refused)) => Err(format!("accepted its settings instead of refusing them with {refused:?}")),
        (Ok(topics), None) => match &suite.topics {
            Some(wanted) if *wanted != topics => Err(format!("subscribed to {topics:?} instead of {wanted:?}")),
            _ => Ok(Some(subject)),
        },
        (Err(why), Some(refused)) if why.contains(refused) => Ok(None),
        (Err(why), Some(refused)) => Err(format!("refused its settings with {why:?} instead of {refused:?}")),
        (Err(why), None) => Err(format!("refused its settings: {why}")),
    }
}

fn call(subject: &mut impl Subject, suite: &Suite, case: &Case) -> Outcome {
    match (&case.packet, &case.message) {
        (Some(packet), None) => {
            let first =
                suite.settings["routes"].get(0).and_then(Value::as_u64).and_then(|route| u8::try_from(route).ok());
            subject.packet(packet, packet.route.or(first).unwrap_or_default())
        }
        (None, Some(message)) => subject.message(message),
        _ => Err("a case has either `packet` or `message`".to_owned()),
    }
}

fn compare(expect: &Expect, outcome: Outcome) -> Result<(), String> {
    let same = match (expect, &outcome) {
        (Expect::Actions(expected), Ok(Ok(actions))) => expected == actions,
        (Expect::Reject(expected), Ok(Err(rejection))) => expected == rejection,
        (Expect::Trap, Err(_)) => true,
        _ => false,
    };
    if same { Ok(()) } else { Err(format!("expected {}, got {}", expected(expect), got(&outcome))) }
}

fn expected(expect: &Expect) -> String {
    match expect {
        Expect::Actions(actions) => format!("actions {}", json(actions)),
        Expect::Reject(rejection) => format!("rejection {}", json(rejection)),
        Expect::Trap => "a trap".to_owned(),
    }
}

fn got(outcome: &Outcome) -> String {
    match outcome {
        Ok(Ok(actions)) => format!("actions {}", json(actions)),
        Ok(Err(rejection)) => format!("rejection {}", json(rejection)),
        Err(trap) => format!("a trap: {trap}"),
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
