//! One generation of a plugin: the code of a file together with the settings it was started with. A generation lives
//! until the last call that uses it has ended.

use super::{
    bindings::{Metric, Rejection},
    described::{Described, LoadError},
    fault::Fault,
    health::{CallPermit, Change, Health, Sender},
    interface::Takes,
    kept::Kept,
    lease::Lease,
    offload::{JobKind, OffloadThread},
    pool::Pool,
    settings::Settings,
    start::Starter,
    usage::Usage,
};
use crate::{
    sync::uptime::{now_ms, unix_ms},
    telemetry::metrics::Metrics,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

/// How long no call tries again to start instances in place of those that have failed, in milliseconds.
const REFILL_PAUSE_MS: u64 = 1000;

/// One generation of a plugin.
pub struct Plugin {
    /// The number of the generation. The limits on log lines distinguish generations by number, so that the first fault
    /// of each generation is logged.
    number: u64,
    starter: Starter,
    /// The topics that the plugin subscribes to.
    pub topics: Vec<String>,
    pool: Pool,
    /// Whether a job that refills the pool waits for the offload thread.
    refilling: AtomicBool,
    /// When a call tries again to start the instances that could not be started, or 0 if there are none.
    refill_at_ms: AtomicU64,
    health: Health,
    offload_thread: Arc<OffloadThread>,
    /// When the generation was put to use, in milliseconds since 1970.
    in_use_since_ms: OnceLock<u64>,
    /// What [`generation`](Self::generation) returned when this one was last put to use, or 0.
    last_use: AtomicI64,
}

impl Plugin {
    /// Starts a generation. Creates and configures the instances of all slots in advance, so that no player waits for
    /// an instance to start.
    ///
    /// # Errors
    /// Returns a [`LoadError`] if the plugin fails or refuses its settings.
    pub fn start(
        described: Arc<Described>,
        settings: Settings,
        kept: Arc<Kept>,
        offload_thread: Arc<OffloadThread>,
        metrics: &Metrics,
    ) -> Result<Self, LoadError> {
        let metrics = metrics.plugin(&described.name);
        let starter = Starter { described, settings, kept, metrics };
        starter.described.check_routes(&starter.settings.routes)?;
        let mut topics = Vec::new();
        let pool = Pool::filled(|| {
            let (instance, its_topics) = starter.configured()?;
            starter.described.check_topics(&its_topics)?;
            topics = its_topics;
            Ok(instance)
        })?;
        // It hears a message once.
        topics.sort_unstable();
        topics.dedup();
        starter.metrics.live_generations.inc();
        static STARTED: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            number: STARTED.fetch_add(1, Ordering::Relaxed),
            starter,
            topics,
            pool,
            refilling: AtomicBool::new(false),
            refill_at_ms: AtomicU64::new(0),
            health: Health::default(),
            offload_thread,
            in_use_since_ms: OnceLock::new(),
            last_use: AtomicI64::new(0),
        })
    }

    /// Returns the plugin's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.starter.described.name
    }

    /// Returns the number of the generation, which is unique in the process.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns the routes that the plugin serves.
    #[must_use]
    pub fn routes(&self) -> &[u8] {
        &self.starter.settings.routes
    }

    /// Returns the plugin's own version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.starter.described.version
    }

    /// Returns the calls that the plugin takes.
    #[must_use]
    pub fn takes(&self) -> Takes {
        self.starter.described.takes()
    }

    /// Returns whether no session may begin without the consent of the plugin.
    #[must_use]
    pub fn is_gatekeeper(&self) -> bool {
        self.starter.described.gatekeeper
    }

    /// Returns the metrics of the plugin's own.
    #[must_use]
    pub fn metrics(&self) -> &[Metric] {
        &self.starter.described.metrics
    }

    /// Returns the format of the plugin's state.
    #[must_use]
    pub fn state_format(&self) -> u32 {
        self.starter.described.state_format
    }

    /// Returns what the host keeps for the plugin over all its generations.
    #[must_use]
    pub fn kept(&self) -> &Kept {
        &self.starter.kept
    }

    /// Returns the settings that the generation was started with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.starter.settings
    }

    /// Records in the metrics that the generation has been put to use.
    pub fn put_to_use(&self) {
        self.last_use.store(self.starter.metrics.generation.inc() + 1, Ordering::Relaxed);
        self.starter.metrics.quarantined.set(0);
        self.in_use_since_ms.get_or_init(unix_ms);
    }

    /// Returns when the generation was put to use, in milliseconds since 1970.
    #[must_use]
    pub fn in_use_since_ms(&self) -> Option<u64> {
        self.in_use_since_ms.get().copied()
    }

    /// Returns how often a plugin with this name was put to use.
    #[must_use]
    pub fn generation(&self) -> i64 {
        self.starter.metrics.generation.get()
    }

    /// Returns the number of calls of all generations by their outcome.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<&'static str, u64> {
        self.starter.metrics.calls_by_outcome()
    }

    /// Counts messages that the plugin's deliveries put into send queues.
    pub fn pushed(&self, pushes: usize) {
        self.starter.metrics.pushes.inc_by(pushes as u64);
    }

    /// Counts publishes of the plugin that were refused for `reason`: `bus_share` or `publish_loop`.
    pub fn publishes_refused(&self, reason: &'static str, publishes: usize) {
        self.starter.metrics.publishes_refused(reason, publishes);
    }

    /// Admits a call. During a quarantine, admits one call after each pause as a trial, and returns `None` for other
    /// calls.
    ///
    /// The caller has to make an admitted call: an unused trial postpones the next one by another pause.
    #[must_use]
    pub fn admit(&self) -> Option<CallPermit> {
        self.health.admit()
    }

    /// Returns whether no call is admitted now, not even a trial.
    #[must_use]
    pub fn admits_nothing(&self) -> bool {
        self.health.admits_nothing()
    }

    /// Returns whether the plugin is in quarantine.
    #[must_use]
    pub fn is_quarantined(&self) -> bool {
        self.health.is_quarantined()
    }

    /// Leases an instance for a call on the current thread. Returns `None` if the call has to be offloaded: the plugin
    /// is offloaded or on probation, or no instance is free.
    #[must_use]
    pub fn lease(&self) -> Option<Lease<'_>> {
        if self.health.is_on_probation() { None } else { self.lease_inline() }
    }

    /// Leases an instance for the beginning or the end of a session on the current thread. Returns `None` if the call has
    /// to be offloaded.
    #[must_use]
    pub fn lease_for_session(&self) -> Option<Lease<'_>> {
        if self.health.are_hooks_offloaded() { None } else { self.lease() }
    }

    /// Leases an instance for a timer on the current thread. Returns `None` if the call has to be offloaded.
    #[must_use]
    pub fn lease_for_timer(&self) -> Option<Lease<'_>> {
        if self.health.are_hooks_offloaded() { None } else { self.lease_in_order() }
    }

    /// Returns whether the plugin may be called for several packets now.
    #[must_use]
    pub fn takes_batches(&self) -> bool {
        self.takes().batches && !self.health.is_quarantined() && !self.health.are_batches_paused()
    }

    /// Lets the plugin be called for each packet for a while, because a call for several packets was slow or failed.
    pub fn pause_batches(&self) {
        self.health.pause_batches();
    }

    /// Offloads the calls for sessions and timers for a while, because one of them was slow or failed.
    pub fn offload_hooks(&self) {
        self.health.offload_hooks();
    }

    fn lease_inline(&self) -> Option<Lease<'_>> {
        if self.health.is_offloaded() { None } else { self.pool.free().map(|slot| Lease::new(&self.starter, slot)) }
    }

    /// Leases an instance for a bus message on the current thread. Returns `None` if the call has to be offloaded: the
    /// plugin is offloaded, no instance is free, or an earlier message is offloaded and must not be overtaken.
    ///
    /// Probation does not apply to messages, because a burst right after a reload could overflow the queue of the
    /// offload thread.
    #[must_use]
    pub fn lease_in_order(&self) -> Option<Lease<'_>> {
        if self.offload_thread.has_messages() { None } else { self.lease_inline() }
    }

    /// Leases the instance of the offload thread. If the slot is empty after a failed call, the call with this lease
    /// starts a new instance first.
    #[must_use]
    pub fn lease_offloaded(&self) -> Lease<'_> {
        Lease::new(&self.starter, self.pool.offloaded())
    }

    /// Returns the offload thread, which all generations of the plugin share.
    #[must_use]
    pub fn offload_thread(&self) -> &OffloadThread {
        &self.offload_thread
    }

    /// Records the outcome of a call. An answer that cannot be carried out must be passed as a fault. `sender` returns
    /// the sender that caused the call.
    pub fn settle<T>(
        self: &Arc<Self>,
        sender: impl Fn() -> Sender,
        permit: &CallPermit,
        usage: &Usage,
        result: Result<&Result<T, Rejection>, &Fault>,
    ) {
        self.starter.metrics.seconds.observe(usage.elapsed_ns);
        if usage.is_slow {
            self.health.record_slow(sender());
        }
        let change = match result {
            Ok(answer) => {
                if !usage.is_slow {
                    self.health.record_quick();
                }
                if answer.is_ok() { &self.starter.metrics.ok } else { &self.starter.metrics.rejected }.inc();
                if self.refill_at_ms.load(Ordering::Relaxed) != 0 {
                    self.refill_again();
                }
                self.health.record_answer()
            }
            Err(fault) => {
                self.starter.metrics.calls(fault.outcome()).inc();
                self.refill();
                self.health.record_failure(permit, sender())
            }
        };
        if change != Change::Nothing {
            self.log_change(&change);
        }
    }

    #[cold]
    fn log_change(&self, change: &Change) {
        // The last calls of a generation that was replaced say nothing about the one that serves.
        if self.last_use.load(Ordering::Relaxed) != self.generation() {
            return;
        }
        let plugin = &**self.name();
        match change {
            Change::Nothing => {}
            Change::Quarantined(pause) => {
                self.starter.metrics.quarantined.set(1);
                tracing::error!(plugin, ?pause, "plugin quarantined: it keeps failing, and its routes answer status 5");
            }
            Change::Released => {
                self.starter.metrics.quarantined.set(0);
                tracing::info!(plugin, "plugin released from quarantine: it answers again");
            }
        }
    }

    /// Makes the offload thread start an instance for each slot that a failed call has left empty. A call that fails
    /// because of inconsistent reads is not settled, so only this is needed.
    pub fn refill(self: &Arc<Self>) {
        if !self.pool.has_empty() || self.refilling.swap(true, Ordering::AcqRel) {
            return;
        }
        let plugin = Arc::clone(self);
        let job = move || {
            // The flag is cleared before the slots are checked, so that a slot that becomes empty later submits a new
            // job.
            plugin.refilling.store(false, Ordering::Release);
            let refilled = plugin.pool.refill(|| plugin.starter.instance());
            plugin.record_refill(refilled);
        };
        if self.offload_thread.submit(JobKind::Refill, 0, Box::new(job)).is_err() {
            self.refilling.store(false, Ordering::Release);
        }
    }

    /// Tries again to start the instances that could not be started, unless it was tried a moment ago.
    #[cold]
    fn refill_again(self: &Arc<Self>) {
        if now_ms() < self.refill_at_ms.load(Ordering::Relaxed) {
            return;
        }
        if self.pool.has_empty() {
            self.refill();
        } else {
            // A call on the offload thread has started its instance itself.
            self.record_refill(Ok(()));
        }
    }

    /// Logs the first failure of a series, and the end of the series.
    fn record_refill(&self, refilled: Result<(), Fault>) {
        let plugin = &**self.name();
        match refilled {
            Ok(()) => {
                if self.refill_at_ms.swap(0, Ordering::Relaxed) != 0 {
                    tracing::info!(plugin, "the instances that could not be started have started");
                }
            }
            Err(error) => {
                if self.refill_at_ms.swap(now_ms() + REFILL_PAUSE_MS, Ordering::Relaxed) == 0 {
                    tracing::warn!(
                        plugin,
                        %error,
                        "no instance can be started in place of one that failed: the plugin serves with fewer instances, \
                         and tries again once a second while it is called"
                    );
                }
            }
        }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.starter.metrics.live_generations.dec();
    }
}
