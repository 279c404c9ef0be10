//! Test a policy natively: no gateway, no WebAssembly.

use crate::{Action, Exported, Manifest, Packet, Policy, Rejection, SessionId};
use gateway_plugin_vectors::{self as vectors, Outcome, Subject, Table};
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A configured policy and one session that talks to it.
///
/// ```
/// use gateway_plugin_sdk::testing::Harness;
/// # use gateway_plugin_sdk::{Action, NoConfig, Packet, Policy, Rejection, Settings};
/// # struct Login;
/// # impl Policy for Login {
/// #     const NAME: &str = "login";
/// #     const ROUTES: &[u8] = &[0x20];
/// #     type Config = NoConfig;
/// #     fn configure(_: Settings<NoConfig>) -> Result<Self, String> { Ok(Self) }
/// #     fn on_packet(&mut self, packet: &Packet, _: &[u8]) -> Result<Vec<Action>, Rejection> {
/// #         Ok(vec![packet.user.map_or(Action::Bind(7), |user| Action::reply(user.to_string()))])
/// #     }
/// # }
///
/// // `Login` binds each session to user 7, and tells who it is bound to.
/// let mut login = Harness::<Login>::new("{}").unwrap();
/// assert_eq!(login.packet(0x20, b"hello"), Ok(vec![Action::Bind(7)]));
/// assert_eq!(login.user, Some(7));
/// assert_eq!(login.packet(0x20, b"hello"), Ok(vec![Action::reply("7")]));
/// ```
pub struct Harness<P> {
    policy: Exported<P>,
    /// The topics that the policy subscribes to.
    pub topics: Vec<String>,
    /// The session's id.
    pub session: SessionId,
    /// The user that the session is bound to. An [`Action::Bind`] sets it, as the gateway would.
    pub user: Option<i32>,
    seq: u32,
}

impl<P: Policy> Harness<P> {
    /// A policy with these settings: JSON as the gateway passes it, of which every key may be left out.
    ///
    /// # Errors
    /// The text that the operator would read.
    pub fn new(settings: &str) -> Result<Self, String> {
        let mut settings: Value =
            serde_json::from_str(settings).map_err(|error| format!("the settings are no JSON: {error}"))?;
        let defaults = [("config", json!({})), ("games", json!([])), ("routes", json!(P::ROUTES))];
        for (key, default) in defaults {
            if settings.get(key).is_none() {
                settings[key] = default;
            }
        }
        let policy = Exported::new();
        let topics = policy.configure(&settings.to_string())?;
        Ok(Self { policy, topics, session: SessionId { high: 1, low: 2 }, user: None, seq: 0 })
    }

    /// What the policy says of itself.
    #[must_use]
    pub fn describe(&self) -> Manifest {
        Exported::<P>::describe("test")
    }

    /// Sends a packet of the session.
    ///
    /// # Errors
    /// Those of the policy.
    pub fn packet(&mut self, route: u8, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        self.seq += 1;
        let packet = Packet { seq: self.seq, route, flags: 0, session: self.session, user: self.user };
        let actions = self.policy.on_packet(&packet, payload)?;
        for action in &actions {
            if let Action::Bind(user) = action {
                self.user.get_or_insert(*user);
            }
        }
        Ok(actions)
    }

    /// Sends a message of the bus.
    ///
    /// # Errors
    /// Those of the policy.
    pub fn message(&mut self, topic: &str, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        self.policy.on_message(topic, payload)
    }
}

/// Runs a table of vectors (the format is documented in the crate `gateway-plugin-vectors`) against the policy: the number of
/// checks that passed.
///
/// ```
/// use gateway_plugin_sdk::testing::vectors;
/// # use gateway_plugin_sdk::{Action, NoConfig, Packet, Policy, Rejection, Settings};
/// # struct Login;
/// # impl Policy for Login {
/// #     const NAME: &str = "login";
/// #     const ROUTES: &[u8] = &[0x20];
/// #     type Config = NoConfig;
/// #     fn configure(_: Settings<NoConfig>) -> Result<Self, String> { Ok(Self) }
/// #     fn on_packet(&mut self, packet: &Packet, _: &[u8]) -> Result<Vec<Action>, Rejection> {
/// #         Ok(vec![packet.user.map_or(Action::Bind(7), |user| Action::reply(user.to_string()))])
/// #     }
/// # }
///
/// let table = r#"{ "suites": [ { "settings": { "config": {}, "routes": [32] }, "cases": [
///     { "name": "it binds", "packet": { "payload": "hello" }, "expect": { "actions": [ { "bind": 7 } ] } },
///     { "name": "it tells", "packet": { "user": 8 }, "expect": { "actions": [ { "reply": { "body": "8" } } ] } }
/// ] } ] }"#;
/// // The settings count as one.
/// assert_eq!(vectors::<Login>(table), Ok(3));
/// assert!(vectors::<Login>(&table.replace("\"bind\": 7", "\"bind\": 9")).is_err());
/// ```
///
/// # Errors
/// A line for each check that did not, or why the table cannot be read.
pub fn vectors<P: Policy>(table: &str) -> Result<usize, String> {
    let table: Table = serde_json::from_str(table).map_err(|error| format!("the table cannot be read: {error}"))?;
    let (passed, failures) = vectors::run(&table, || Ok(Native(Exported::<P>::new())));
    let lines: Vec<_> = failures.iter().map(ToString::to_string).collect();
    if lines.is_empty() { Ok(passed) } else { Err(lines.join("\n")) }
}

struct Native<P>(Exported<P>);

impl<P: Policy> Subject for Native<P> {
    fn configure(&mut self, settings: &str) -> Result<Result<Vec<String>, String>, String> {
        caught(|| self.0.configure(settings))
    }

    fn packet(&mut self, packet: &vectors::Packet, route: u8) -> Outcome {
        caught(|| self.0.on_packet(&self::packet(packet, route), &packet.payload.0)).map(decision)
    }

    fn message(&mut self, message: &vectors::Message) -> Outcome {
        caught(|| self.0.on_message(&message.topic, &message.payload.0)).map(decision)
    }
}

fn caught<R>(call: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| "it panicked".to_owned())
}

vectors::conversions!(crate);
