//! A table of vectors against a component.

use super::{load, settings};
use crate::plugin::{Action, Decision, Fault, Packet, SessionId, Target, trial::Trial};
use anyhow::Context;
use gateway_plugin_vectors::{self as vectors, Bytes, Failure, Outcome, Subject, Table};
use std::{fs, path::Path};
use uuid::Uuid;

/// Runs a file of vectors against a component: the number of checks that passed, and those that did not.
///
/// # Errors
/// Where one of the files cannot be read, or the component is no plugin.
pub fn test(path: &Path, vectors: &Path) -> anyhow::Result<(usize, Vec<Failure>)> {
    let table = fs::read_to_string(vectors).with_context(|| format!("{} cannot be read", vectors.display()))?;
    let table: Table =
        serde_json::from_str(&table).with_context(|| format!("{} is no table of vectors", vectors.display()))?;
    let described = load(path)?;
    let limits = settings(&described, None).limits;
    Ok(vectors::run(&table, || Trial::new(&described, limits).map_err(|fault| fault.to_string())))
}

impl Subject for Trial {
    fn configure(&mut self, settings: &str) -> Result<Result<Vec<String>, String>, String> {
        Self::configure(self, settings).map_err(|fault| fault.to_string())
    }

    fn packet(&mut self, packet: &vectors::Packet, route: u8) -> Outcome {
        let (high, low) = packet.session.as_u64_pair();
        let vectors::Packet { seq, flags, user, payload, .. } = packet;
        let packet = Packet { seq: *seq, route, flags: *flags, session: SessionId { high, low }, user: *user };
        plain(self.on_packet(packet, &payload.0))
    }

    fn message(&mut self, message: &vectors::Message) -> Outcome {
        plain(self.on_message(&message.topic, &message.payload.0))
    }
}

fn plain(decision: Result<Decision, Fault>) -> Outcome {
    let decision = decision.map_err(|fault| fault.to_string())?;
    let rejected = decision.map(|actions| actions.into_iter().map(action).collect());
    Ok(rejected.map_err(|it| vectors::Rejection { status: it.status, message: it.message }))
}

fn action(action: Action) -> vectors::Action {
    match action {
        Action::Publish(it) => vectors::Action::Publish { topic: it.topic, body: it.body.map(Bytes) },
        Action::Bind(user) => vectors::Action::Bind(user),
        Action::Reply(it) => vectors::Action::Reply { status: it.status, body: Bytes(it.body) },
        Action::Echo => vectors::Action::Echo,
        Action::Deliver(it) => vectors::Action::Deliver {
            to: match it.to {
                Target::Session(id) => vectors::Target::Session(Uuid::from_u64_pair(id.high, id.low)),
                Target::User(user) => vectors::Target::User(user),
            },
            route: it.route,
            body: it.body.map(Bytes),
        },
        Action::Close(it) => vectors::Action::Close { code: it.code, reason: it.reason },
    }
}
