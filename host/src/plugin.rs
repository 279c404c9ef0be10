//! Hosting of plugins: turns the bytes of a WebAssembly file into instances that decide on packets and bus messages.
//!
//! Everything that touches a guest belongs here: compiling and linking, instances and their limits, the health of a
//! plugin, its offload thread, and the WASI that guests see.
//! This module and its submodules may know the plugin interface (`wit/policy.wit`), `sync` and `telemetry`.
//! They must not know sessions, sockets, routing, the bus, or how files are reloaded.

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

/// The maximum number of topics that one plugin may subscribe to.
const TOPICS: usize = 1024;

/// The limits of an instance that is started only to call `describe`. The plugin's name is not known before that call,
/// so its own settings cannot be used.
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

/// Why a plugin cannot be loaded or started.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is not a plugin that this gateway can run.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// A step of loading failed. The first field names the step: `start` (the instantiation), `describe` or
    /// `configure`.
    #[error("its `{0}` failed: {1}")]
    Fault(&'static str, Fault),
    /// The plugin's manifest or its list of topics is not valid.
    #[error("its manifest is not valid: {0}")]
    Manifest(String),
    /// The plugin refused its settings. The fields are the plugin's name and the reason that the plugin gave.
    #[error("it refuses its settings (plugins.settings.{0}.config): {1}")]
    Settings(Arc<str>, String),
}

/// A compiled plugin file with the manifest that the plugin returned. Any number of generations can be started from it.
pub struct Described {
    linked: Linked,
    /// The plugin's name.
    pub name: Arc<str>,
    /// The plugin's own version.
    pub version: String,
    /// The routes that the plugin claims in its manifest. Its settings may name other routes instead.
    pub routes: Vec<u8>,
}

impl Described {
    /// Returns the names of the interfaces that the component imports.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        self.linked.imports()
    }

    /// Compiles the bytes of a file and calls the plugin's `describe`. This keeps a processor busy for milliseconds to
    /// seconds.
    ///
    /// # Errors
    /// Returns a [`LoadError`] that says what is wrong and how to fix it.
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

/// The settings of one plugin from gateway.yaml, with the defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The routes that the plugin serves.
    pub routes: Vec<u8>,
    /// The limits of the plugin's instances and of its calls.
    pub limits: Limits,
    /// The maximum payload of a packet on the plugin's routes, in bytes.
    pub max_payload: usize,
    /// The JSON text that is passed to `configure`.
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

/// The rule that [`is_topic`] checks, worded for error messages.
pub const TOPIC_RULE: &str = "a topic is 1 to 256 bytes without control characters";

/// Returns whether a plugin may subscribe to the topic and publish on it.
#[must_use]
pub fn is_topic(topic: &str) -> bool {
    // Checking bytes is faster than decoding characters. Unicode has control characters outside ASCII, so a topic that
    // is not ASCII is also checked by character.
    let has_control = topic.bytes().fold(false, |found, byte| found | byte.is_ascii_control())
        || (!topic.is_ascii() && topic.contains(char::is_control));
    (1..=256).contains(&topic.len()) && !has_control
}
