//! Hosting of plugins: from a file's bytes to a component that decides, with limits on all that a call may take.
//!
//! It knows the plugin interface, and what a plugin may use. It does not know sessions, sockets or the bus.

mod bindings;
mod clock;
mod component;
mod generation;
mod health;
mod instance;
pub mod offload;
mod pool;
mod state;
pub mod trace;
pub mod trial;
mod wasi;

pub use bindings::{Action, Answer, Closing, Delivery, Manifest, Packet, Publication, Rejection, SessionId, Target};
pub use component::{Compiler, LOG, OFFERED, POLICY, Unfit};
pub use generation::{Lease, Plugin, Usage};
pub use health::{Admission, Sender};
pub use instance::{Decision, Fault, Limits};

use crate::telemetry::text;
use component::Linked;
use instance::Instance;
use std::{sync::Arc, time::Duration};

/// Topics that one plugin may subscribe to.
const TOPICS: usize = 1024;

/// Memory for the call of `describe`, which comes before the plugin's name and so before its settings are known.
const DESCRIBE_LIMITS: Limits = Limits {
    call_timeout: Duration::from_millis(20),
    memory: 64 << 20,
    table_elements: 1_000_000,
    handles: 10_000,
    result: 1 << 20,
    actions: 0,
    pushes: 0,
    log_line: 4096,
    log_lines_per_s: 100,
};

/// Why a plugin cannot be put to use.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is no plugin.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// One of the calls of loading failed.
    #[error("its `{0}` failed: {1}")]
    Fault(&'static str, Fault),
    /// What it says of itself is not usable.
    #[error("its manifest is not valid: {0}")]
    Manifest(String),
    /// It does not want its settings.
    #[error("it refuses its settings (plugins.settings.{0}.config): {1}")]
    Settings(Arc<str>, String),
}

/// A compiled file that has said who it is. It serves any number of generations.
pub struct Described {
    linked: Linked,
    /// Its name.
    pub name: Arc<str>,
    /// Its own version.
    pub version: String,
    /// The routes that it claims by itself.
    pub routes: Vec<u8>,
}

impl Described {
    /// The interfaces that it imports.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        self.linked.imports()
    }

    /// Compiles a file's bytes and asks the plugin who it is. Takes a processor for milliseconds to seconds.
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong, and what would mend it.
    pub fn load(compiler: &Compiler, bytes: &[u8]) -> Result<Self, LoadError> {
        let linked = compiler.compile(bytes)?;
        let fault = |step| move |fault| LoadError::Fault(step, fault);
        let mut instance = Instance::new(&linked, "(new)".into(), DESCRIBE_LIMITS, None).map_err(fault("start"))?;
        let outcome = |described: &Result<_, Fault>| described.as_ref().map_or_else(Fault::outcome, |_| "ok");
        let manifest = trace::within(&trace::describe(), || instance.describe(), outcome).map_err(fault("describe"))?;
        check_manifest(&manifest).map_err(LoadError::Manifest)?;
        let Manifest { name, version, routes } = manifest;
        Ok(Self { linked, name: name.into(), version, routes })
    }
}

fn check_manifest(manifest: &Manifest) -> Result<(), String> {
    let Manifest { name, version, routes } = manifest;
    let legal = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !(1..=64).contains(&name.len()) || !name.chars().all(legal) {
        let name = text::bounded_to(256, name);
        return Err(format!("the name \"{name}\" is not 1 to 64 characters of A-Z a-z 0-9 _ . -"));
    }
    if version.len() > 64 || version.contains(char::is_control) {
        let version = text::bounded_to(256, version);
        return Err(format!("the version \"{version}\" is not at most 64 bytes without control characters"));
    }
    let twice = routes.iter().enumerate().find(|(i, route)| routes[..*i].contains(route));
    twice.map_or(Ok(()), |(_, route)| Err(format!("it claims route 0x{route:02x} twice")))
}

/// What an operator says of a plugin, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The routes that it shall serve.
    pub routes: Vec<u8>,
    /// What its calls may take.
    pub limits: Limits,
    /// The longest payload in bytes that a packet on its routes may have.
    pub max_payload: usize,
    /// The JSON that `configure` gets.
    pub json: String,
}

fn check_topics(topics: &[String]) -> Result<(), String> {
    if topics.len() > TOPICS {
        return Err(format!("it subscribes to {} topics, and {TOPICS} are the most", topics.len()));
    }
    let illegal = topics.iter().find(|topic| !is_topic(topic));
    illegal
        .map_or(Ok(()), |topic| Err(format!("it subscribes to \"{}\", and {TOPIC_RULE}", text::bounded_to(256, topic))))
}

/// What [`is_topic`] asks of a topic.
pub const TOPIC_RULE: &str = "a topic is 1 to 256 bytes without control characters";

/// Whether a plugin may use the topic.
#[must_use]
pub fn is_topic(topic: &str) -> bool {
    // Bytes are looked at faster than characters, and outside ASCII there are control characters as well.
    let has_control = topic.bytes().fold(false, |found, byte| found | byte.is_ascii_control())
        || (!topic.is_ascii() && topic.contains(char::is_control));
    (1..=256).contains(&topic.len()) && !has_control
}
