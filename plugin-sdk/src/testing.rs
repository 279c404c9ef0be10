//! Test a policy natively: no gateway, no WebAssembly.

use crate::{Action, Exported, Manifest, Packet, Policy, Rejection, SessionId, Target};
use gateway_plugin_vectors::{self as vectors, Bytes, Outcome, Subject, Table};
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A configured policy and one session that talks to it.
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
        let (high, low) = packet.session.as_u64_pair();
        let vectors::Packet { seq, flags, user, payload, .. } = packet;
        let packet = Packet { seq: *seq, route, flags: *flags, session: SessionId { high, low }, user: *user };
        caught(|| self.0.on_packet(&packet, &payload.0)).map(plain)
    }

    fn message(&mut self, message: &vectors::Message) -> Outcome {
        caught(|| self.0.on_message(&message.topic, &message.payload.0)).map(plain)
    }
}

fn caught<R>(call: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| "it panicked".to_owned())
}

fn plain(decision: Result<Vec<Action>, Rejection>) -> Result<Vec<vectors::Action>, vectors::Rejection> {
    let rejection = |Rejection { status, message }| vectors::Rejection { status, message };
    decision.map(|actions| actions.into_iter().map(action).collect()).map_err(rejection)
}

fn action(action: Action) -> vectors::Action {
    match action {
        Action::Publish(it) => vectors::Action::Publish { topic: it.topic, body: it.body.map(Bytes) },
        Action::Bind(user) => vectors::Action::Bind(user),
        Action::Reply(it) => vectors::Action::Reply { status: it.status, body: Bytes(it.body) },
        Action::Echo => vectors::Action::Echo,
        Action::Deliver(it) => vectors::Action::Deliver {
            to: match it.to {
                Target::Session(id) => vectors::Target::Session(uuid::Uuid::from_u64_pair(id.high, id.low)),
                Target::User(user) => vectors::Target::User(user),
            },
            route: it.route,
            body: it.body.map(Bytes),
        },
        Action::Close(it) => vectors::Action::Close { code: it.code, reason: it.reason },
    }
}
