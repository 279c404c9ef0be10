//! One generation of a plugin: a file's code with its settings. It lives until the last call that uses it is over.

use super::{
    Described, LoadError, Settings, check_topics,
    health::{Admission, Change, Health, Sender},
    instance::{Decision, Fault, Instance},
    offload::OffloadThread,
    pool::{Held, Pool},
    trace,
};
use crate::telemetry::{
    metrics::{Metrics, PluginMetrics},
    text,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A generation of a plugin.
pub struct Plugin {
    /// Tells generations apart in the limits on log lines, so that the first fault of each is logged.
    number: u64,
    described: Arc<Described>,
    settings: Settings,
    /// The topics that it subscribes to.
    pub topics: Vec<String>,
    pool: Pool,
    refilling: AtomicBool,
    health: Health,
    offload_thread: Arc<OffloadThread>,
    metrics: PluginMetrics,
}

impl Plugin {
    /// Starts a generation: every instance that it will call is made and configured, so that no player waits for that.
    ///
    /// # Errors
    /// [`LoadError`] if the plugin fails or refuses its settings.
    pub fn start(
        described: Arc<Described>,
        settings: Settings,
        offload_thread: Arc<OffloadThread>,
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
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let (refilling, health) = (AtomicBool::new(false), Health::default());
        Ok(Self { number, described, settings, topics, pool, refilling, health, offload_thread, metrics })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.described.name
    }

    /// Its number in this process.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
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

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Counts that it is put to use.
    pub fn put_to_use(&self) {
        self.metrics.generation.inc();
        self.metrics.quarantined.set(0);
    }

    /// Counts messages that its actions put into send queues.
    pub fn pushed(&self, pushes: usize) {
        self.metrics.pushes.inc_by(pushes as u64);
    }

    /// Counts publishes that were refused, since the plugin took more of the bus than its part.
    pub fn publishes_refused(&self, reason: &'static str, publishes: usize) {
        self.metrics.publishes_refused(reason, publishes);
    }

    /// Admits a call, unless the plugin is in quarantine. Then one call after each pause is admitted as a trial. An admission has to be used.
    #[must_use]
    pub fn admit(&self) -> Option<Admission> {
        self.health.admit()
    }

    /// Whether no call is admitted now, not even a trial.
    #[must_use]
    pub fn is_barred(&self) -> bool {
        self.health.is_barred()
    }

    /// Whether it is in quarantine.
    #[must_use]
    pub fn is_quarantined(&self) -> bool {
        self.health.is_quarantined()
    }

    /// Leases an instance for a call on this thread. None if the plugin is slow or on probation, or if no instance is free: then the call has to be
    /// offloaded.
    #[must_use]
    pub fn lease(&self) -> Option<Lease<'_>> {
        if self.health.is_on_probation() { None } else { self.lease_inline() }
    }

    fn lease_inline(&self) -> Option<Lease<'_>> {
        if self.health.is_offloaded() { None } else { self.pool.free().map(|slot| Lease { plugin: self, slot }) }
    }

    /// The same for messages, none of which may overtake one that is offloaded. There is no probation for them: a burst that comes right after a
    /// reload would be too much for the queue of the offload thread.
    #[must_use]
    pub fn lease_in_order(&self) -> Option<Lease<'_>> {
        if self.offload_thread.has_messages() { None } else { self.lease_inline() }
    }

    /// Leases the instance of the offload thread. It is started by the call if the one before it failed.
    #[must_use]
    pub fn lease_offloaded(&self) -> Lease<'_> {
        Lease { plugin: self, slot: self.pool.offloaded() }
    }

    /// The offload thread of the plugin.
    #[must_use]
    pub fn offload_thread(&self) -> &OffloadThread {
        &self.offload_thread
    }

    /// Records what came of a call. An answer that cannot be carried out is a fault as well.
    pub fn settle<T>(
        self: &Arc<Self>,
        sender: Sender,
        admission: &Admission,
        usage: &Usage,
        result: Result<&Result<T, super::Rejection>, &Fault>,
    ) {
        if usage.is_slow() {
            self.health.slow(sender);
        }
        let change = match result {
            Ok(answer) => {
                if !usage.is_slow() {
                    self.health.quick();
                }
                if answer.is_ok() { &self.metrics.ok } else { &self.metrics.rejected }.inc();
                self.health.answered()
            }
            Err(fault) => {
                self.metrics.calls(fault.outcome()).inc();
                self.refill();
                self.health.failed(admission, sender)
            }
        };
        self.tell(&change);
    }

    fn tell(&self, change: &Change) {
        let plugin = &**self.name();
        match change {
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

    /// Has the offload thread start an instance for each slot that a failed call left empty.
    fn refill(self: &Arc<Self>) {
        if !self.pool.has_empty() || self.refilling.swap(true, Ordering::AcqRel) {
            return;
        }
        let plugin = Arc::clone(self);
        let job = move || {
            // Before the look: a slot that empties from here on asks again.
            plugin.refilling.store(false, Ordering::Release);
            plugin.pool.refill(|| plugin.instance());
        };
        if self.offload_thread.submit(0, Box::new(job)).is_err() {
            self.refilling.store(false, Ordering::Release);
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

/// What a call took.
#[derive(Debug)]
pub struct Usage {
    /// The processor time, as far as it can be told: 0 for a call of less than three ticks of the clock.
    busy: Duration,
    /// The bytes that the host copied into the plugin.
    copied: usize,
}

impl Usage {
    /// A call that keeps its thread busy for longer than this is slow. A policy takes microseconds.
    const SLOW: Duration = Duration::from_millis(1);

    /// Whether the call was slow for what was copied into it.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.busy > Self::SLOW + Instance::allowance(self.copied)
    }
}

/// An instance that is leased for one call.
pub struct Lease<'a> {
    plugin: &'a Plugin,
    slot: Held<'a>,
}

impl Lease<'_> {
    /// Asks for a decision on a packet.
    pub fn on_packet(self, packet: super::Packet, payload: &[u8]) -> (Result<Decision, Fault>, Usage) {
        self.call(payload.len(), |instance| instance.on_packet(packet, payload))
    }

    /// Asks for a decision on a message of the bus.
    pub fn on_message(self, topic: &str, payload: &[u8]) -> (Result<Decision, Fault>, Usage) {
        self.call(payload.len(), |instance| instance.on_message(topic, payload))
    }

    /// Leaves the instance in its slot only if it answered.
    fn call(
        mut self,
        copied: usize,
        call: impl FnOnce(&mut Instance) -> Result<Decision, Fault>,
    ) -> (Result<Decision, Fault>, Usage) {
        let began = Instant::now();
        let mut usage = Usage { busy: Duration::ZERO, copied };
        let mut instance = match self.slot.take() {
            Some(instance) => instance,
            None => match self.plugin.instance() {
                Ok(instance) => Box::new(instance),
                Err(fault) => return (Err(fault), usage),
            },
        };
        let decision = call(&mut instance);
        usage.busy = instance.busy();
        if decision.is_ok() {
            *self.slot = Some(instance);
        }
        self.plugin.metrics.seconds.observe(began.elapsed());
        (decision, usage)
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
        .map_err(|refusal| LoadError::Settings(Arc::clone(&described.name), text::bounded(refusal)))?;
    Ok((instance, topics))
}
