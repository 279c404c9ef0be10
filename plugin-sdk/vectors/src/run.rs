//! Runs a table against a plugin, which may be a component or a native plugin.

use crate::{Call, Case, Given, Outcome, Suite, Table};
use serde_json::Value;
use std::fmt;

/// A new instance of a plugin, on which [`run`] runs the calls of a suite.
pub trait Subject {
    /// Calls `configure`, and returns the topics that the plugin subscribes to.
    ///
    /// # Errors
    /// The outer error is the text of a trap. The inner error is the text with which the plugin refuses the settings.
    fn configure(&mut self, settings: &str) -> Result<Result<Vec<String>, String>, String>;

    /// Makes a call, during which the plugin reads what is in `given`. The route of a packet is always present.
    ///
    /// # Errors
    /// Returns why there is no outcome.
    fn call(&mut self, call: &Call, given: &Given) -> Result<Outcome, Failed>;
}

/// Why a call has no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The call has failed, with this text.
    Trap(String),
    /// The plugin does not export the call. The text is a sentence without a full stop.
    NotExported(String),
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
        let mut unusable = "the settings were refused".to_owned();
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
            let Some(configured_subject) = &mut subject else {
                check(Some(&case.name), Err(unusable.clone()));
                continue;
            };
            let outcome = call(configured_subject, suite, case);
            let trapped = outcome.is_err();
            check(Some(&case.name), compare(&case.expect, outcome));
            if trapped {
                subject = configured(suite, &mut fresh).unwrap_or_else(|why| {
                    unusable = format!("the instance after a trap {why}");
                    None
                });
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

fn call(subject: &mut impl Subject, suite: &Suite, case: &Case) -> Result<Outcome, Failed> {
    let mut call = case.call.clone();
    if let Call::Packet(packet) = &mut call {
        let first = suite.settings["routes"].get(0).and_then(Value::as_u64);
        let first = first.and_then(|route| u8::try_from(route).ok()).unwrap_or_default();
        packet.route.get_or_insert(first);
    }
    subject.call(&call, &case.given)
}

fn compare(expected: &Outcome, outcome: Result<Outcome, Failed>) -> Result<(), String> {
    match (expected, outcome) {
        (Outcome::Trap, Err(Failed::Trap(_))) => Ok(()),
        (expected, Ok(outcome)) if *expected == outcome => Ok(()),
        (expected, Ok(outcome)) => Err(format!("expected {}, got {}", json(expected), json(&outcome))),
        (expected, Err(Failed::Trap(why))) => Err(format!("expected {}, got a trap: {why}", json(expected))),
        (expected, Err(Failed::NotExported(why))) => Err(format!("expected {}, but {why}", json(expected))),
    }
}

fn json(outcome: &Outcome) -> String {
    serde_json::to_string(outcome).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Admission, Bytes, Rejection};
    use std::cell::Cell;

    /// A plugin that is told by each call what to answer.
    struct Told;

    impl Subject for Told {
        fn configure(&mut self, settings: &str) -> Result<Result<Vec<String>, String>, String> {
            match settings {
                "\"refuse\"" => Ok(Err("colour: unknown".to_owned())),
                "\"trap\"" => Err("unreachable".to_owned()),
                _ => Ok(Ok(vec!["news".to_owned()])),
            }
        }

        fn call(&mut self, call: &Call, given: &Given) -> Result<Outcome, Failed> {
            match call {
                Call::Packet(packet) => {
                    let body = format!("{:?} {} {:?} {:?}", packet.route, given.now, given.state, given.attributes);
                    Ok(Outcome::Actions(vec![Action::Reply { status: 0, body: Bytes(body.into_bytes()) }]))
                }
                Call::Message(_) => Ok(Outcome::Reject(Rejection { status: 2, message: "no".to_owned() })),
                Call::Connect(it) => {
                    Ok(Outcome::Admit(Admission { tag: it.query.len() as u64, ..Admission::default() }))
                }
                Call::Disconnect(it) => Ok(Outcome::Actions(it.user.map(Action::Bind).into_iter().collect())),
                Call::Away(it) => Ok(Outcome::Actions(it.user.map(Action::Bind).into_iter().collect())),
                Call::Back(it) if it.handed_over => Ok(Outcome::Actions(vec![Action::Echo])),
                Call::Back(_) => Ok(Outcome::Actions(vec![])),
                Call::Wake(it) if it.key == 0 => Err(Failed::Trap("unreachable".to_owned())),
                Call::Wake(it) if it.key == 9 => Err(Failed::NotExported("it has no timers".to_owned())),
                Call::Wake(_) => Ok(Outcome::Actions(vec![])),
            }
        }
    }

    /// Runs one suite, and returns the number of instances, the number of passed checks, and the failures.
    fn run_suite(suite: &str) -> (usize, usize, Vec<String>) {
        let table = serde_json::from_str(&format!(r#"{{"suites": [{suite}]}}"#)).unwrap();
        let instances = Cell::new(0);
        let (passed, failures) = run(&table, || {
            instances.set(instances.get() + 1);
            Ok(Told)
        });
        (instances.get(), passed, failures.iter().map(ToString::to_string).collect())
    }

    #[track_caller]
    fn check(cases: &str, instances: usize, passed: usize, failures: &[&str]) {
        let suite = format!(r#"{{"settings": {{"routes": [16, 17]}}, "topics": ["news"], "cases": [{cases}]}}"#);
        assert_eq!(run_suite(&suite), (instances, passed, failures.iter().map(|&it| it.to_owned()).collect()));
    }

    #[test]
    fn every_kind_of_outcome_is_compared() {
        check(
            r#"{"name": "a", "message": {"topic": "t"}, "expect": {"reject": {"status": 2, "message": "no"}}}"#,
            1,
            2,
            &[],
        );
        check(r#"{"name": "a", "connect": {"query": "abc"}, "expect": {"admit": {"tag": 3}}}"#, 1, 2, &[]);
        check(r#"{"name": "a", "disconnect": {"user": 7}, "expect": {"actions": [{"bind": 7}]}}"#, 1, 2, &[]);
        check(r#"{"name": "a", "away": {"user": 7}, "expect": {"actions": [{"bind": 7}]}}"#, 1, 2, &[]);
        check(r#"{"name": "a", "back": {"handed_over": true}, "expect": {"actions": ["echo"]}}"#, 1, 2, &[]);
        let wrong = r#"suite 1, a: expected {"deny":{"status":400,"message":""}}, got {"actions":[]}"#;
        check(
            r#"{"name": "a", "wake": {"key": 1}, "expect": {"deny": {"status": 400, "message": ""}}}"#,
            1,
            1,
            &[wrong],
        );
    }

    #[test]
    fn a_fresh_instance_follows_a_trap() {
        let trap = r#"{"name": "a", "wake": {"key": 0}, "expect": "trap"}"#;
        let after = r#"{"name": "b", "wake": {"key": 0}, "expect": {"actions": []}}"#;
        let failure = r#"suite 1, b: expected {"actions":[]}, got a trap: unreachable"#;
        check(&[trap, after].join(","), 3, 2, &[failure]);
        let not_exported = r#"{"name": "a", "wake": {"key": 9}, "expect": "trap"}"#;
        check(not_exported, 2, 1, &[r#"suite 1, a: expected "trap", but it has no timers"#]);
        let missing = r#"suite 1, a: expected "trap", got {"actions":[]}"#;
        check(r#"{"name": "a", "wake": {"key": 1}, "expect": "trap"}"#, 1, 1, &[missing]);
    }

    #[test]
    fn a_call_reads_what_its_case_states() {
        let reply = |body| format!(r#""expect": {{"actions": [{{"reply": {{"body": "{body}"}}}}]}}"#);
        let defaults = format!(r#"{{"name": "a", "packet": {{}}, {}}}"#, reply("Some(16) 1700000000000 {} {}"));
        let stated = format!(
            r#"{{"name": "b", "packet": {{"route": 17}}, "now": 5, "state": {{"k": {{"hex": "ff"}}}}, "attributes": {{"n": "x"}}, {}}}"#,
            reply(r#"Some(17) 5 {\"k\": Bytes([255])} {\"n\": \"x\"}"#)
        );
        check(&[defaults, stated].join(","), 1, 3, &[]);
    }

    #[test]
    fn the_settings_are_a_check() {
        let settings = |suite| {
            let (_, passed, failures) = run_suite(suite);
            (passed, failures.concat())
        };
        let failed = |text: &str| (0, format!("suite 1, settings: {text}"));
        assert_eq!(settings(r#"{"settings": "refuse", "refused": "colour"}"#), (1, String::new()));
        assert_eq!(
            settings(r#"{"settings": "refuse", "refused": "size"}"#),
            failed(r#"refused its settings with "colour: unknown" instead of "size""#)
        );
        assert_eq!(settings(r#"{"settings": "refuse"}"#), failed("refused its settings: colour: unknown"));
        assert_eq!(
            settings(r#"{"settings": 1, "refused": "size"}"#),
            failed(r#"accepted its settings instead of refusing them with "size""#)
        );
        assert_eq!(settings(r#"{"settings": 1, "topics": []}"#), failed(r#"subscribed to ["news"] instead of []"#));
        assert_eq!(settings(r#"{"settings": "trap"}"#), failed("configure trapped: unreachable"));
    }
}
