//! Tests a policy natively, without a gateway and without WebAssembly.

use crate::{Action, Exported, Manifest, Packet, Policy, Rejection, SessionId};
use gateway_plugin_vectors::{self as vectors, Outcome, Subject, Table};
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A configured policy, and a session that sends packets to the policy.
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
/// // `Login` binds an unbound session to user 7, and answers a bound session with the user's id.
/// let mut login = Harness::<Login>::new("{}").unwrap();
/// assert_eq!(login.packet(0x20, b"hello"), Ok(vec![Action::Bind(7)]));
/// assert_eq!(login.user, Some(7));
/// assert_eq!(login.packet(0x20, b"hello"), Ok(vec![Action::reply("7")]));
/// ```
pub struct Harness<P> {
    policy: Exported<P>,
    /// The bus topics that the policy subscribes to.
    pub topics: Vec<String>,
    /// The session's id. A new harness sets `high` to 1 and `low` to 2.
    pub session: SessionId,
    /// The user that the session is bound to. [`packet`](Self::packet) sets this field when an unbound session gets an
    /// [`Action::Bind`].
    pub user: Option<i32>,
    seq: u32,
}

impl<P: Policy> Harness<P> {
    /// Creates a policy with the given settings, and a session that is not bound to a user.
    ///
    /// The settings are the JSON object that the gateway passes, with the keys `config`, `games` and `routes`. A
    /// missing key gets its default: an empty object, an empty list, or [`Policy::ROUTES`].
    ///
    /// # Errors
    /// Returns the text that the operator would read if the policy does not accept the settings.
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

    /// Returns the plugin's manifest, with the version `test`.
    #[must_use]
    pub fn describe(&self) -> Manifest {
        Exported::<P>::describe("test")
    }

    /// Sends a packet from the session, and returns the policy's actions. The packets have the seqs 1, 2, 3 and so on.
    ///
    /// # Errors
    /// Returns the policy's rejection.
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

    /// Sends a bus message, and returns the policy's actions. The topic need not be one that the policy subscribes to.
    ///
    /// # Errors
    /// Returns the policy's rejection.
    pub fn message(&mut self, topic: &str, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
        self.policy.on_message(topic, payload)
    }
}

/// Runs a table of test vectors against the policy, and returns the number of checks that passed.
///
/// The crate `gateway-plugin-vectors` documents the format of the table.
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
///     { "name": "it answers", "packet": { "user": 8 }, "expect": { "actions": [ { "reply": { "body": "8" } } ] } }
/// ] } ] }"#;
/// // The settings count as one check, and each case as one.
/// assert_eq!(vectors::<Login>(table), Ok(3));
/// assert!(vectors::<Login>(&table.replace("\"bind\": 7", "\"bind\": 9")).is_err());
/// ```
///
/// # Errors
/// Returns one line for each check that failed, or the reason why the table cannot be read.
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
