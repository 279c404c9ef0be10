//! Runs test vectors natively.

use super::{
    reads::{self, Reads},
    rules,
};
use crate::{Action, Admission, Exported, Instance, Rejection};
use gateway_plugin_vectors::{self as vectors, Bytes, Call, Failed, Given, Outcome, Subject, Table};
use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Runs a table of test vectors against the plugin, and returns the number of checks that passed.
///
/// The crate `gateway-plugin-vectors` documents the format of the table.
///
/// ```
/// use gateway_plugin_sdk::testing::vectors;
/// # use gateway_plugin_sdk::{Action, NoConfig, Packet, Plugin, Policy, Rejection, Settings, export};
/// # struct Login;
/// # export!(Login: Policy);
/// # impl Plugin for Login {
/// #     const NAME: &str = "login";
/// #     type Config = NoConfig;
/// #     fn configure(_: Settings<NoConfig>) -> Result<Self, String> { Ok(Self) }
/// # }
/// # impl Policy for Login {
/// #     fn on_packet(&mut self, packet: &Packet, _: &[u8]) -> Result<Vec<Action>, Rejection> {
/// #         Ok(vec![packet.user.map_or(Action::Bind(7), |user| Action::reply(user.to_string()))])
/// #     }
/// # }
///
/// let table = r#"{ "suites": [ { "settings": { "config": {}, "routes": [32] }, "cases": [
///     { "name": "it binds", "packet": { "payload": "hello" }, "expect": { "actions": [ { "bind": 7 } ] } },
///     { "name": "it answers", "packet": { "user": 8 }, "expect": { "actions": [ { "reply": { "body": "8" } } ] } }
/// ] } ] }"#;
/// // The settings count as one check, and each case as one.
/// assert_eq!(vectors::<Login>(table), Ok(3));
/// assert!(vectors::<Login>(&table.replace("\"bind\": 7", "\"bind\": 9")).is_err());
/// ```
///
/// # Errors
/// Returns one line for each check that failed, or the reason why the table cannot be read.
pub fn vectors<P: Exported>(table: &str) -> Result<usize, String> {
    let table: Table = serde_json::from_str(table).map_err(|error| format!("the table cannot be read: {error}"))?;
    let (passed, failures) = vectors::run(&table, || Ok(Native(Instance::<P>::new())));
    let lines: Vec<_> = failures.iter().map(ToString::to_string).collect();
    if lines.is_empty() { Ok(passed) } else { Err(lines.join("\n")) }
}

struct Native<P>(Instance<P>);

impl<P: Exported> Subject for Native<P> {
    fn configure(&mut self, settings: &str) -> Result<Result<Vec<String>, String>, String> {
        caught(|| self.0.configure(settings))
    }

    fn call(&mut self, call: &Call, given: &Given) -> Result<Outcome, Failed> {
        let Given { now, state, attributes } = given.clone();
        let mut reads = Reads {
            entries: state.into_iter().map(|(key, Bytes(value))| (key, value)).collect(),
            attributes: HashMap::from([(session_id(call.session()), attributes.into_iter().collect())]),
            ..Reads::default()
        };
        let outcome = caught(|| reads::during(&mut reads, || self.0.with(|plugin| outcome(plugin, call, now))));
        outcome.map_err(Failed::Trap)?
    }
}

fn outcome<P: Exported>(plugin: &mut P, call: &Call, now: u64) -> Result<Outcome, Failed> {
    let calls = P::CALLS;
    let sender = Some(session_id(call.session()));
    Ok(match call {
        Call::Packet(it) => {
            let answer = exported(calls.on_packet, "Policy")?(plugin, &packet(it, now), &it.payload.0);
            decided::<P>(rules::Call { name: "on_packet", sender, payload: Some(&it.payload.0) }, answer)
        }
        Call::Message(it) => {
            let answer = exported(calls.on_message, "Hearing")?(plugin, &it.topic, &it.payload.0, now);
            decided::<P>(rules::Call { name: "on_message", sender: None, payload: Some(&it.payload.0) }, answer)
        }
        Call::Connect(it) => {
            let answer = exported(calls.on_connect, "Sessions")?(plugin, &connection(it, now));
            rules::check_admission(&answer);
            if let Ok(Admission { actions, .. }) = &answer {
                rules::Call { name: "on_connect", sender, payload: None }.check::<P>(actions);
            }
            admission(answer)
        }
        Call::Disconnect(it) => {
            let actions = exported(calls.on_disconnect, "Sessions")?(plugin, &departure(it, now));
            decided::<P>(rules::Call { name: "on_disconnect", sender, payload: None }, Ok(actions))
        }
        Call::Away(it) => {
            let actions = exported(calls.on_away, "Presence")?(plugin, &absence(it, now));
            decided::<P>(rules::Call { name: "on_away", sender, payload: None }, Ok(actions))
        }
        Call::Back(it) => {
            let actions = exported(calls.on_back, "Presence")?(plugin, &arrival(it, now));
            decided::<P>(rules::Call { name: "on_back", sender, payload: None }, Ok(actions))
        }
        Call::Wake(it) => {
            let actions = exported(calls.on_wake, "Timers")?(plugin, it.key, now);
            decided::<P>(rules::Call { name: "on_wake", sender: None, payload: None }, Ok(actions))
        }
    })
}

/// Returns the outcome of a call that the gateway carries out. Panics if the gateway would refuse the answer.
fn decided<P: Exported>(call: rules::Call<'_>, answer: Result<Vec<Action>, Rejection>) -> Outcome {
    match &answer {
        Ok(actions) => call.check::<P>(actions),
        Err(rejection) => rules::check_rejection(call.name, rejection),
    }
    decision(answer)
}

fn exported<C>(call: Option<C>, name: &str) -> Result<C, Failed> {
    call.ok_or_else(|| Failed::NotExported(format!("`{name}` is not in the plugin's `export!`")))
}

fn caught<R>(call: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        text.map_or_else(|| "it panicked".to_owned(), |text: &str| format!("it panicked: {text}"))
    })
}

vectors::conversions!(crate);
