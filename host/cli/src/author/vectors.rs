//! `gateway plugin test`: runs a table of test vectors against a component.

use super::load::{load, settings};
use anyhow::Context;
use gateway::{
    config::Config,
    plugin::{
        About, Attributes, Batch, Decision, Described, Fault, Kept, Limits, Packet, Rules, SessionId,
        store::{Saved, SavedEntry, Store},
        trial::Trial,
    },
};
use gateway_plugin_vectors::{self as vectors, Call, Failed, Failure, Outcome, Subject, Table};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// Runs the table in the file `vectors` against the component in the file `path`. Returns the number of checks that
/// passed, and the checks that failed.
///
/// The limits are those of the plugin in the configuration. The settings that `configure` receives are those of the
/// table.
///
/// # Errors
/// Fails if a file cannot be read, if the table is malformed, or if the component is not a plugin.
pub(crate) fn test(path: &Path, vectors: &Path, config: Option<&Config>) -> anyhow::Result<(usize, Vec<Failure>)> {
    let table = fs::read_to_string(vectors).with_context(|| format!("{} cannot be read", vectors.display()))?;
    let table: Table =
        serde_json::from_str(&table).with_context(|| format!("{} is no table of vectors", vectors.display()))?;
    let described = load(path, config)?;
    let limits = settings(&described, config).limits;
    let server = config.map_or_else(|| Config::default().server, |config| config.server.clone());
    let start = |in_batches| Tested::start(&described, limits, server.max_message_bytes, in_batches);
    let (passed, failures) = vectors::run(&table, || start(false));
    if !failures.is_empty() || !described.takes().batches {
        return Ok((passed, failures));
    }
    // Packets that arrive together get the same answers.
    let (passed, mut failures) = vectors::run(&table, || start(true));
    failures.iter_mut().for_each(|failure| failure.what.insert_str(0, "with `on-packets`, "));
    Ok((passed, failures))
}

/// The component under test.
struct Tested<'a> {
    described: &'a Described,
    limits: Limits,
    /// The largest message in bytes, header included.
    max_message_bytes: usize,
    trial: Trial,
    kept: Arc<Kept>,
    attributes: Arc<Mutex<Given>>,
    /// Whether packets are handed in with `on-packets`.
    in_batches: bool,
}

/// The attributes of the session that a case is about.
#[derive(Default)]
struct Given {
    session: Option<SessionId>,
    attributes: BTreeMap<String, String>,
}

/// The source of the attributes for the component.
struct Source(Arc<Mutex<Given>>);

impl Attributes for Source {
    fn attribute(&self, session: SessionId, name: &str) -> Option<String> {
        let given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_given = given.session.is_some_and(|it| (it.high, it.low) == (session.high, session.low));
        is_given.then(|| given.attributes.get(name).cloned()).flatten()
    }
}

impl<'a> Tested<'a> {
    fn start(
        described: &'a Described,
        limits: Limits,
        max_message_bytes: usize,
        in_batches: bool,
    ) -> Result<Self, String> {
        let attributes = Arc::<Mutex<Given>>::default();
        let source = Box::new(Source(Arc::clone(&attributes)));
        let kept = Arc::new(Kept::new(Store::new(usize::MAX), source, Arc::default()));
        let trial = Trial::new(described, limits, Arc::clone(&kept)).map_err(|fault| fault.to_string())?;
        Ok(Self { described, limits, max_message_bytes, trial, kept, attributes, in_batches })
    }

    /// Returns the rules for the answer of a call. Which routes other plugins serve is not known, so any may be one.
    fn rules(&self, call: &Call) -> Rules<'a, impl Fn(u8) -> bool + use<'a>> {
        Rules {
            about: match call {
                Call::Packet(_) => About::Packet,
                Call::Message(_) => About::Message,
                Call::Connect(_) | Call::Disconnect(_) | Call::Away(_) | Call::Back(_) => About::Session,
                Call::Wake(_) => About::Timer,
            },
            max_message_bytes: self.max_message_bytes,
            max_actions: self.limits.actions,
            takes: self.described.takes(),
            metrics: &self.described.metrics,
            serves: |_| true,
        }
    }

    /// Puts what the plugin reads during the case in place of what it read before.
    fn give(&mut self, call: &Call, given: &vectors::Given) {
        let entry = |(key, value): (&String, &vectors::Bytes)| SavedEntry {
            key: key.as_str().into(),
            value: value.0.as_slice().into(),
            expires_ms: None,
        };
        let entries = given.state.iter().map(entry).collect();
        self.kept.store.restore(Saved { format: self.described.state_format, entries });
        *self.attributes.lock().unwrap_or_else(PoisonError::into_inner) =
            Given { session: Some(session_id(call.session())), attributes: given.attributes.clone() };
        self.trial.simulate(given.now);
    }
}

impl Subject for Tested<'_> {
    fn configure(&mut self, settings: &str) -> Result<Result<Vec<String>, String>, String> {
        let topics = self.trial.configure(settings).map_err(|fault| fault.to_string())?;
        if let Ok(topics) = &topics {
            self.described.check_topics(topics).map_err(|error| error.to_string())?;
        }
        Ok(topics)
    }

    fn call(&mut self, call: &Call, given: &vectors::Given) -> Result<Outcome, Failed> {
        let takes = self.described.takes();
        let (is_exported, interface) = match call {
            Call::Packet(_) => (takes.packets, "policy"),
            Call::Message(_) => (takes.messages, "hearing"),
            Call::Connect(_) | Call::Disconnect(_) => (takes.sessions, "sessions"),
            Call::Away(_) | Call::Back(_) => (takes.presence, "presence"),
            Call::Wake(_) => (takes.timers, "timers"),
        };
        if !is_exported {
            return Err(Failed::NotExported(format!("the plugin does not export `gateway:policy/{interface}`")));
        }
        self.give(call, given);
        let rules = self.rules(call);
        let (trial, now) = (&mut self.trial, given.now);
        let answer = match call {
            Call::Packet(it) if self.in_batches => on_packets(trial, packet(it, now), &it.payload.0),
            Call::Packet(it) => trial.on_packet(packet(it, now), &it.payload.0),
            Call::Message(it) => trial.on_message(&it.topic, &it.payload.0, now),
            Call::Connect(it) => {
                let answer = trial.on_connect(&connection(it, now)).map_err(failed)?;
                rules.check_connect(&answer).map_err(refused)?;
                return Ok(admission(answer));
            }
            Call::Disconnect(it) => trial.on_disconnect(&departure(it, now)),
            Call::Away(it) => trial.on_away(absence(it, now)),
            Call::Back(it) => trial.on_back(arrival(it, now)),
            Call::Wake(it) => trial.on_wake(it.key, now),
        };
        let answer = answer.map_err(failed)?;
        rules.check(&answer).map_err(refused)?;
        Ok(decision(answer))
    }
}

fn failed(fault: Fault) -> Failed {
    Failed::Trap(fault.to_string())
}

/// Returns the failure of an answer that every gateway refuses.
fn refused(broken: String) -> Failed {
    failed(Fault::Answer(format!("the gateway refuses the answer: {broken}")))
}

/// Hands in a packet and the same once more, as a batch, because the gateway makes no batch of a single packet. Returns
/// the decision on the first. That on the second may differ, for example because of a random number.
fn on_packets(trial: &mut Trial, packet: Packet, payload: &[u8]) -> Result<Decision, Fault> {
    let Packet { seq, route, flags, session, user, tag, now } = packet;
    let (seqs, routes, flags) = (vec![seq; 2], vec![route; 2], vec![flags; 2]);
    let (lengths, payloads) = (vec![payload.len() as u32; 2], payload.repeat(2));
    let batch = Batch { session, user, tag, now, seqs, routes, flags, lengths, payloads };
    let decisions = trial.on_packets(&batch)?;
    Ok(decisions.into_iter().next().expect("there are as many decisions as packets"))
}

vectors::conversions!(gateway::plugin);
