//! Runs test vectors natively.

use super::reads::{self, Reads};
use crate::{Exported, Instance};
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
    Ok(match call {
        Call::Packet(it) => decision(exported(calls.on_packet, "Policy")?(plugin, &packet(it, now), &it.payload.0)),
        Call::Message(it) => decision(exported(calls.on_message, "Hearing")?(plugin, &it.topic, &it.payload.0, now)),
        Call::Connect(it) => admission(exported(calls.on_connect, "Sessions")?(plugin, &connection(it, now))),
        Call::Disconnect(it) => decision(Ok(exported(calls.on_disconnect, "Sessions")?(plugin, &departure(it, now)))),
        Call::Away(it) => decision(Ok(exported(calls.on_away, "Presence")?(plugin, &absence(it, now)))),
        Call::Back(it) => decision(Ok(exported(calls.on_back, "Presence")?(plugin, &arrival(it, now)))),
        Call::Wake(it) => decision(Ok(exported(calls.on_wake, "Timers")?(plugin, it.key, now))),
    })
}

fn exported<C>(call: Option<C>, name: &str) -> Result<C, Failed> {
    call.ok_or_else(|| Failed::NotExported(format!("`{name}` is not in the plugin's `export!`")))
}

fn caught<R>(call: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| "it panicked".to_owned())
}

vectors::conversions!(crate);
