//! A compiled plugin file that has described itself.

use super::{
    bindings::{Manifest, Metric},
    component::{Compiler, Linked, Unfit},
    fault::Fault,
    instance::Instance,
    interface::Takes,
    limits::Limits,
    topics::check_topics,
    trace,
};
use crate::telemetry::text;
use gateway_wire::packet::ROUTE_CONTROL;
use std::{sync::Arc, time::Duration};

/// The limits of an instance that is started only to call `describe`. The plugin's name is not known before that call,
/// so its own settings cannot be used. The caller gives the limit on memory.
pub(super) const DESCRIBE_LIMITS: Limits = Limits {
    call_timeout: Duration::from_millis(20),
    memory: 0,
    table_elements: 1_000_000,
    handles: 10_000,
    result: 1 << 20,
    actions: 0,
    pushes: 0,
    state: 0,
    log_line: 4096,
    log_lines_per_s: 100,
};

/// The maximum number of metrics that one plugin may have.
const MAX_METRICS: usize = 64;

/// The maximum length of the help text of a metric, in bytes.
const MAX_HELP_BYTES: usize = 256;

/// Why a plugin cannot be loaded or started.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is not a plugin that this gateway can run.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// A step of loading needs more memory than an instance gets whose plugin is not known yet. The first field names
    /// the step.
    #[error("its `{0}` failed: {1}. Until `describe` has told its name, the largest `memory_mb` of all plugins counts")]
    Unnamed(&'static str, Fault),
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
    pub(super) linked: Linked,
    /// The plugin's name.
    pub name: Arc<str>,
    /// The plugin's own version.
    pub version: String,
    /// The routes that the plugin claims in its manifest. Its settings may name other routes instead.
    pub routes: Vec<u8>,
    /// The metrics of the plugin.
    pub metrics: Vec<Metric>,
    /// The format of the plugin's state.
    pub state_format: u32,
    /// Whether no session may begin without the consent of the plugin.
    pub gatekeeper: bool,
}

impl Described {
    /// Returns the calls that the plugin takes.
    #[must_use]
    pub fn takes(&self) -> Takes {
        self.linked.interface().takes()
    }

    /// Returns the names of the interfaces that the component imports.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.linked.names().imports
    }

    /// Returns the version of the plugin interface that the component was built against.
    #[must_use]
    pub fn interface_version(&self) -> &str {
        &self.linked.names().version
    }

    /// Compiles the bytes of a file and calls the plugin's `describe`. The instance for this call gets at most `memory`
    /// bytes. This keeps a processor busy for milliseconds to seconds.
    ///
    /// # Errors
    /// Returns a [`LoadError`] that says what is wrong and how to fix it.
    pub fn load(compiler: &Compiler, bytes: &[u8], memory: usize) -> Result<Self, LoadError> {
        let linked = compiler.compile(bytes)?;
        let fault = |step| {
            move |fault: Fault| match fault.outcome() {
                "memory" => LoadError::Unnamed(step, fault),
                _ => LoadError::Fault(step, fault),
            }
        };
        let limits = Limits { memory, ..DESCRIBE_LIMITS };
        let mut instance = Instance::new(&linked, "(new)".into(), limits, None, None).map_err(fault("start"))?;
        let traced = trace::begin(trace::describe);
        let manifest = instance.describe();
        trace::end(traced, || manifest.as_ref().map_or_else(Fault::outcome, |_| "ok"));
        let manifest = manifest.map_err(fault("describe"))?;
        check_manifest(&manifest).map_err(LoadError::Manifest)?;
        let Manifest { name, version, routes, metrics, state_format, gatekeeper } = manifest;
        Ok(Self { linked, name: name.into(), version, routes, metrics, state_format, gatekeeper })
    }
}

impl Described {
    /// Checks the routes that the plugin claims, or that its settings name instead.
    ///
    /// # Errors
    /// Returns a [`LoadError`] that says which rule they break.
    pub fn check_routes(&self, routes: &[u8]) -> Result<(), LoadError> {
        let broken = if !self.takes().packets && !routes.is_empty() {
            "it claims routes, but does not export `gateway:policy/policy`"
        } else if routes.contains(&ROUTE_CONTROL) {
            "it claims the route 0, which is the gateway's own: choose another from 1 to 255"
        } else {
            return Ok(());
        };
        Err(LoadError::Manifest(broken.to_owned()))
    }

    /// Checks the topics that the plugin subscribes to.
    ///
    /// # Errors
    /// Returns a [`LoadError`] that says which rule they break.
    pub fn check_topics(&self, topics: &[String]) -> Result<(), LoadError> {
        check_topics(topics).map_err(LoadError::Manifest)?;
        if !self.takes().messages && !topics.is_empty() {
            let why = "it subscribes to topics, but does not export `gateway:policy/hearing`".to_owned();
            return Err(LoadError::Manifest(why));
        }
        Ok(())
    }
}

fn check_manifest(manifest: &Manifest) -> Result<(), String> {
    let Manifest { name, version, routes, metrics, .. } = manifest;
    let legal = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !(1..=64).contains(&name.len()) || !name.chars().all(legal) {
        let name = text::bounded_to(256, name);
        return Err(format!("the name \"{name}\" is not 1 to 64 characters of A-Z a-z 0-9 _ . -"));
    }
    if version.len() > 64 || version.contains(char::is_control) {
        let version = text::bounded_to(256, version);
        return Err(format!("the version \"{version}\" is not at most 64 bytes without control characters"));
    }
    let duplicate = routes.iter().enumerate().find(|(i, route)| routes[..*i].contains(route));
    if let Some((_, route)) = duplicate {
        return Err(format!("it claims route 0x{route:02x} twice"));
    }
    check_metrics(metrics)
}

fn check_metrics(metrics: &[Metric]) -> Result<(), String> {
    if metrics.len() > MAX_METRICS {
        return Err(format!("it has {} metrics, and {MAX_METRICS} are the most", metrics.len()));
    }
    for (i, Metric { name, help, .. }) in metrics.iter().enumerate() {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let shown = text::bounded_to(256, name);
        if !(1..=64).contains(&name.len()) || !name.chars().all(legal) {
            return Err(format!("the metric name \"{shown}\" is not 1 to 64 characters of a-z 0-9 _"));
        }
        if help.len() > MAX_HELP_BYTES {
            return Err(format!("the help of the metric \"{shown}\" has more than {MAX_HELP_BYTES} bytes"));
        }
        if metrics[..i].iter().any(|other| other.name == *name) {
            return Err(format!("it has the metric \"{shown}\" twice"));
        }
    }
    Ok(())
}
