//! Plugins: components that decide, one per file, each with a handful of instances.

mod bindings;
mod clock;
mod component;
mod health;
mod instance;
pub mod lane;
mod pool;
mod state;
mod trace;
pub mod trial;
mod wasi;

pub use bindings::{Action, Answer, Closing, Delivery, Manifest, Packet, Publication, Rejection, SessionId, Target};
pub use component::{Compiler, LOG, OFFERED, POLICY, Unfit};
pub use instance::{Decision, Fault, Limits};

use crate::telemetry::metrics::{Metrics, PluginMetrics};
use component::Linked;
use health::{Change, Health};
use instance::Instance;
use lane::Lane;
use pool::{Held, Pool};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

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
        return Err(format!("the name {name:?} is not 1 to 64 characters of A-Z a-z 0-9 _ . -"));
    }
    if version.len() > 64 || version.contains(char::is_control) {
        return Err(format!("the version {version:?} is not at most 64 bytes without control characters"));
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
    /// The JSON that `configure` gets.
    pub json: String,
}

/// Says what is wrong with a decision that nobody could carry out.
pub trait Valid: FnOnce(&Decision) -> Result<(), String> {}

impl<F: FnOnce(&Decision) -> Result<(), String>> Valid for F {}

/// One generation of a plugin: a file's code with its settings. It lives until the last call that uses it is over.
pub struct Plugin {
    described: Arc<Described>,
    settings: Settings,
    /// The topics that it subscribes to.
    pub topics: Vec<String>,
    pool: Pool,
    health: Health,
    lane: Arc<Lane>,
    metrics: PluginMetrics,
}

impl Plugin {
    /// Starts a generation: every instance that it will call is made and configured, so that no player waits for that.
    ///
    /// # Errors
    /// [`LoadError`] where the plugin fails or refuses its settings.
    pub fn start(
        described: Arc<Described>,
        settings: Settings,
        lane: Arc<Lane>,
        metrics: &Metrics,
    ) -> Result<Self, LoadError> {
        let metrics = metrics.plugin(&described.name);
        let mut topics = Vec::new();
        let pool = Pool::filled(|| {
            let (instance, its_topics) = configured(&described, &settings, &metrics)?;
            check_topics(&its_topics).map_err(LoadError::Manifest)?;
            topics = its_topics;
            Ok(instance)
        })?;
        metrics.live_generations.inc();
        Ok(Self { described, settings, topics, pool, health: Health::default(), lane, metrics })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.described.name
    }

    /// The routes that it serves.
    #[must_use]
    pub fn routes(&self) -> &[u8] {
        &self.settings.routes
    }

    /// Its own version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.described.version
    }

    /// The code and the settings that it was started with.
    #[must_use]
    pub fn origin(&self) -> (&Arc<Described>, &Settings) {
        (&self.described, &self.settings)
    }

    /// Counts that it is put to use.
    pub fn put_to_use(&self) {
        self.metrics.generation.inc();
        self.metrics.quarantined.set(0);
    }

    /// The actions that one call may answer with.
    #[must_use]
    pub fn most_actions(&self) -> usize {
        self.settings.limits.actions
    }

    /// Whether it may be asked: not while it is in quarantine, but for a trial now and then. The one who asks has to make the call.
    #[must_use]
    pub fn admits(&self) -> bool {
        self.health.admits()
    }

    /// Whether nobody may ask it yet.
    #[must_use]
    pub fn is_barred(&self) -> bool {
        self.health.is_barred()
    }

    /// Whether it is in quarantine.
    #[must_use]
    pub fn is_quarantined(&self) -> bool {
        self.health.is_quarantined()
    }

    /// An instance for a call right here. Nothing while the plugin is slow, or where no instance waits: then the call has to run on its lane.
    #[must_use]
    pub fn here(&self) -> Option<Seat<'_>> {
        if self.health.is_slow() { None } else { self.pool.waiting().map(|slot| Seat { plugin: self, slot }) }
    }

    /// The same for messages, of which none may overtake another.
    #[must_use]
    pub fn here_in_order(&self) -> Option<Seat<'_>> {
        if self.lane.is_busy() { None } else { self.here() }
    }

    /// An instance for a call on the lane, which is where one that failed is replaced: that may take as long as loading.
    #[must_use]
    pub fn beside(&self) -> Seat<'_> {
        Seat { plugin: self, slot: self.pool.empty_or_waiting() }
    }

    /// Where calls run that are not for the threads that serve players.
    #[must_use]
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    fn note(&self, busy: Duration, failed: bool) {
        let plugin = &**self.name();
        match self.health.called(busy, failed) {
            Change::Nothing => {}
            Change::Quarantined(pause) => {
                self.metrics.quarantined.set(1);
                tracing::error!(plugin, ?pause, "plugin quarantined: it keeps failing, and its routes answer status 5");
            }
            Change::Released => {
                self.metrics.quarantined.set(0);
                tracing::info!(plugin, "plugin released from quarantine: it answers again");
            }
        }
    }

    fn instance(&self) -> Result<Instance, Fault> {
        match configured(&self.described, &self.settings, &self.metrics) {
            Ok((instance, _)) => Ok(instance),
            Err(LoadError::Fault(_, fault)) => Err(fault),
            Err(other) => Err(Fault::Answer(other.to_string())),
        }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.metrics.live_generations.dec();
    }
}

/// An instance that is held for one call.
pub struct Seat<'a> {
    /// Whose it is.
    pub plugin: &'a Plugin,
    slot: Held<'a>,
}

impl Seat<'_> {
    /// Asks for a decision on a packet. `valid` says what is wrong with one that nobody could carry out.
    ///
    /// # Errors
    /// [`Fault`] where the plugin failed; nothing has happened then.
    pub fn on_packet(self, packet: Packet, payload: &[u8], valid: impl Valid) -> Result<Decision, Fault> {
        let span = trace::on_packet(self.plugin, &packet);
        trace::within(&span, || self.call(|instance| instance.on_packet(packet, payload), valid), trace::outcome)
    }

    /// Asks for a decision on a message of the bus.
    ///
    /// # Errors
    /// [`Fault`] where the plugin failed; nothing has happened then.
    pub fn on_message(self, topic: &str, payload: &[u8], valid: impl Valid) -> Result<Decision, Fault> {
        let span = trace::on_message(self.plugin, topic);
        trace::within(&span, || self.call(|instance| instance.on_message(topic, payload), valid), trace::outcome)
    }

    fn call(
        mut self,
        call: impl FnOnce(&mut Instance) -> Result<Decision, Fault>,
        valid: impl Valid,
    ) -> Result<Decision, Fault> {
        let began = Instant::now();
        let (result, busy) = self.call_instance(call);
        let took = began.elapsed();
        let Self { plugin, slot } = self;
        drop(slot);
        let result = result.and_then(|decision| valid(&decision).map(|()| decision).map_err(Fault::Answer));
        let metrics = &plugin.metrics;
        metrics.seconds.observe(took);
        plugin.note(busy, result.is_err());
        match &result {
            Ok(Ok(_)) => metrics.ok.inc(),
            Ok(Err(_)) => metrics.rejected.inc(),
            Err(fault) => metrics.calls(fault.outcome()).inc(),
        };
        result
    }

    /// Leaves the instance in its slot only if it answered. Answers with the time for which it kept the thread busy, too.
    fn call_instance(
        &mut self,
        call: impl FnOnce(&mut Instance) -> Result<Decision, Fault>,
    ) -> (Result<Decision, Fault>, Duration) {
        let mut instance = match self.slot.take() {
            Some(instance) => instance,
            None => match self.plugin.instance() {
                Ok(instance) => Box::new(instance),
                Err(fault) => return (Err(fault), Duration::ZERO),
            },
        };
        let decision = call(&mut instance);
        let busy = instance.busy();
        if decision.is_ok() {
            *self.slot = Some(instance);
        }
        (decision, busy)
    }
}

fn configured(
    described: &Described,
    settings: &Settings,
    metrics: &PluginMetrics,
) -> Result<(Instance, Vec<String>), LoadError> {
    let fault = |step| move |fault| LoadError::Fault(step, fault);
    let name = Arc::clone(&described.name);
    let mut instance =
        Instance::new(&described.linked, name, settings.limits, Some(metrics)).map_err(fault("start"))?;
    let span = trace::configure(&described.name, &described.version);
    let topics = trace::within(&span, || instance.configure(&settings.json), trace::outcome)
        .map_err(fault("configure"))?
        .map_err(|refusal| LoadError::Settings(Arc::clone(&described.name), refusal))?;
    Ok((instance, topics))
}

fn check_topics(topics: &[String]) -> Result<(), String> {
    if topics.len() > TOPICS {
        return Err(format!("it subscribes to {} topics, and {TOPICS} are the most", topics.len()));
    }
    let illegal = topics.iter().find(|topic| !is_topic(topic));
    illegal.map_or(Ok(()), |topic| Err(format!("it subscribes to {topic:?}, and {TOPIC_RULE}")))
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
