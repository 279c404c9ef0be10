//! The metrics of the gateway. A handle is looked up once and kept, so that no message pays for the look-up.

mod count;
pub mod custom;
mod labels;
mod register;
mod resume;
mod seconds;
mod traces;

pub use count::Count;
pub use custom::Custom;
pub use seconds::Seconds;

use super::{log, log_limit::LogLimits};
use crate::sync::uptime::unix_ms;
use labels::{
    CALLS, DISCONNECTIONS, DROPPED, HANDSHAKES_REFUSED, JWKS_FETCHES, Kind, Name, NameOutcome, NameReason, Outcome,
    PUBLISHES_REFUSED, RELOADS, ROUTING_ERRORS, Reason, Route, Topic,
};
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use register::{known, known_outcomes, outcomes, register};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::AtomicU64},
};

/// All metrics of the gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The limit on log lines that strangers and plugins can cause.
    pub log_limits: LogLimits,
    /// The metrics that plugins declare for themselves.
    pub custom: Custom,
    /// Connections that began or resumed a session.
    pub connections: Counter,
    /// Sessions that are alive.
    pub sessions: Gauge,
    /// Packets written to sockets.
    pub sent: Count,
    /// Pushes that took the place of an older push in a send queue.
    pub replaced: Counter,
    /// Pings from clients.
    pub pings_received: Count,
    /// Pongs from clients.
    pub pongs_received: Count,
    /// Fragments of messages from clients.
    pub fragments_received: Count,
    /// Bytes that are buffered for incomplete messages.
    pub receiving_bytes: Gauge,
    /// Packets for a route that no plugin serves.
    pub received_unrouted: Count,
    /// Deliveries to at least one session of this gateway.
    pub delivered: Count,
    /// Deliveries to a target that has no session on this gateway.
    pub undelivered: Count,
    /// Messages from the bus that led to anything on this gateway.
    pub heard_here: Count,
    /// Messages from the bus that were for nobody on this gateway.
    pub heard_not_here: Count,
    /// Publishes that the bus took.
    pub published: Count,
    /// Publishes that the bus took and that reached no subscriber.
    pub unheard: Count,
    /// 1 while all directions of the bus are connected, and otherwise 0.
    pub bus_connected: Gauge,
    /// 1 while the content of gateway.yaml is not in use because it is wrong, and otherwise 0.
    pub config_rejected: Gauge,
    /// Plugin files whose content is not in use because it is wrong.
    pub plugin_files_rejected: Gauge,
    /// 1 while the files of the certificate are not in use because they are wrong, and otherwise 0.
    pub tls_files_rejected: Gauge,
    /// Publishes that wait for the bus.
    pub bus_queued: Gauge,
    /// The topics and bodies of these publishes, in bytes.
    pub bus_queued_bytes: Gauge,
    /// Connections to Redis that ended because a probe failed.
    pub bus_probe_failures: Counter,
    /// Entries of streams that were read.
    pub stream_entries: Count,
    /// Entries of streams that were dropped because they were written twice.
    pub stream_duplicates: Counter,
    /// Entries of streams that were removed before they were read.
    pub stream_lost: Counter,
    stream_lag: Family<Topic, Gauge>,
    /// Times in which messages of the bus may have been lost.
    pub bus_gaps: Counter,
    /// How long these times were, in seconds.
    pub bus_blind_seconds: Counter<f64, AtomicU64>,
    /// The end of the certificate's validity in seconds since 1970, or 0 without TLS.
    pub tls_expiry: Gauge,
    /// Certificates that replaced the one before.
    pub tls_replaced: Counter,
    /// Changes of the certificate's files that were not taken.
    pub tls_rejected: Counter,
    disconnections: Family<Reason, Counter>,
    received: Family<Route, Count>,
    routing_errors: Family<Reason, Counter>,
    dropped: Family<Reason, Counter>,
    handshakes_refused: Family<Reason, Counter>,
    jwks_fetches: Family<Outcome, Counter>,
    /// The metrics of sessions that outlive their connections.
    pub resume: resume::Metrics,
    /// The metrics of traces.
    pub traces: traces::Metrics,
    plugin_calls: Family<NameOutcome, Count>,
    plugin_pushes: Family<Name, Count>,
    plugin_publishes_refused: Family<NameReason, Counter>,
    plugin_seconds: Family<Name, Seconds>,
    plugin_reloads: Family<NameOutcome, Counter>,
    plugin_generation: Family<Name, Gauge>,
    plugin_live_generations: Family<Name, Gauge>,
    plugin_instances: Family<Name, Gauge>,
    plugin_memory: Family<Name, Gauge>,
    plugin_quarantined: Family<Name, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers all metrics under their names.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        // Its name is that of all programs that Prometheus watches.
        let started: Gauge = register(&mut registry, "process_start_time_seconds", "When the process started");
        started.set(i64::try_from(unix_ms() / 1000).unwrap_or(i64::MAX));
        let r = registry.sub_registry_with_prefix("gateway");
        let deliveries = "Deliveries, by whether their target has a session on this gateway";
        let [delivered, undelivered] = outcomes(r, "deliveries", deliveries, ["delivered", "not_here"]);
        let heard = "Messages from the bus, by whether they led to anything on this gateway";
        let [heard_here, heard_not_here] = outcomes(r, "bus_received", heard, ["here", "not_here"]);
        let frames = Family::<Kind, Count>::default();
        r.register("frames_received", "Frames from clients that are no packet by themselves, by kind", frames.clone());
        let frames = |kind| frames.get_or_create(&Kind { kind }).clone();
        let received = register::<Family<Route, Count>>(r, "messages_received", "Packets from clients, by route byte");
        let unrouted = received.get_or_create(&Route { route: "none".to_owned() }).clone();
        let certificates = register::<Family<Outcome, Counter>>(r, "tls_reloads", "Changes of the certificate");
        let reloads = |outcome| certificates.get_or_create(&Outcome { outcome }).clone();
        r.register("log_lines_dropped", "Log lines that were dropped, because nobody read the log", log::Dropped);
        let custom = Custom::default();
        r.register_collector(Box::new(custom.clone()));
        Self {
            custom,
            connections: register(r, "connections", "Connections that began or resumed a session"),
            sessions: register(r, "sessions", "Sessions that are alive"),
            sent: register(r, "messages_sent", "Packets written to sockets"),
            replaced: register(r, "messages_replaced", "Pushes that took the place of an older push in a send queue"),
            pings_received: frames("ping"),
            pongs_received: frames("pong"),
            fragments_received: frames("fragment"),
            receiving_bytes: register(r, "receiving_bytes", "Bytes that are buffered for incomplete messages"),
            received_unrouted: unrouted,
            delivered,
            undelivered,
            heard_here,
            heard_not_here,
            published: register(r, "bus_published", "Messages that the bus took"),
            unheard: register(r, "bus_unheard", "Messages that the bus took and that reached no subscriber"),
            bus_connected: register(r, "bus_connected", "1 while all directions of the bus are connected"),
            bus_gaps: register(r, "bus_gaps", "Times in which messages of the bus may have been lost"),
            bus_blind_seconds: register(r, "bus_blind_seconds", "How long messages of the bus may have been lost"),
            config_rejected: register(r, "config_rejected", "1 while gateway.yaml is wrong, and is not in use"),
            plugin_files_rejected: register(r, "plugin_files_rejected", "Plugin files that are wrong, and not in use"),
            tls_files_rejected: register(r, "tls_files_rejected", "1 while the files of the certificate are wrong"),
            bus_queued: register(r, "bus_queued", "Messages that wait for the bus"),
            bus_queued_bytes: register(r, "bus_queued_bytes", "Topics and bodies of messages that wait for the bus"),
            bus_probe_failures: register(r, "bus_probe_failures", "Connections to Redis that a probe has ended"),
            stream_entries: register(r, "bus_stream_entries", "Entries of streams that were read"),
            stream_duplicates: register(r, "bus_stream_duplicates", "Entries of streams that were written twice"),
            stream_lost: register(r, "bus_stream_lost", "Entries of streams that were removed before they were read"),
            stream_lag: register(r, "bus_stream_lag_entries", "Entries of a stream that were not read yet"),
            tls_expiry: register(r, "tls_certificate_expiry_seconds", "The end of the certificate, or 0 without TLS"),
            tls_replaced: reloads("ok"),
            tls_rejected: reloads("rejected"),
            disconnections: known(r, "disconnections", "Connections that ended, by reason", DISCONNECTIONS),
            received,
            routing_errors: known(
                r,
                "routing_errors",
                "Packets and bus messages that were refused, by reason",
                ROUTING_ERRORS,
            ),
            dropped: known(r, "messages_dropped", "Messages that were lost, by reason", DROPPED),
            handshakes_refused: known(
                r,
                "handshakes_refused",
                "Connections that became no session, by reason",
                HANDSHAKES_REFUSED,
            ),
            jwks_fetches: known_outcomes(r, "auth_jwks_fetches", "Fetches of auth.jwks_url, by outcome", JWKS_FETCHES),
            resume: resume::Metrics::new(r),
            traces: traces::Metrics::new(r),
            plugin_calls: register(r, "plugin_calls", "Calls of a plugin, by outcome"),
            plugin_pushes: register(r, "plugin_pushes", "Messages that a plugin's deliveries put into send queues"),
            plugin_publishes_refused: register(r, "plugin_publishes_refused", "Publishes that were refused, by reason"),
            plugin_seconds: register(r, "plugin_call_seconds", "How long calls of a plugin took"),
            plugin_reloads: register(r, "plugin_reloads", "Loads, swaps and removals of a plugin, by outcome"),
            plugin_generation: register(r, "plugin_generation", "How often a plugin was put to use"),
            plugin_live_generations: register(r, "plugin_live_generations", "Generations of a plugin that are alive"),
            plugin_instances: register(r, "plugin_instances", "Instances of a plugin"),
            plugin_memory: register(r, "plugin_memory_bytes", "Linear memory of a plugin's instances"),
            plugin_quarantined: register(
                r,
                "plugin_quarantined",
                "1 while a plugin is in quarantine because it keeps failing",
            ),
            log_limits: LogLimits::default(),
            registry,
        }
    }

    /// Counts a connection that ended for this reason.
    pub fn disconnected(&self, reason: &'static str) {
        debug_assert!(DISCONNECTIONS.contains(&reason), "a reason that is not listed: {reason}");
        self.disconnections.get_or_create(&Reason { reason }).inc();
    }

    /// Returns the counter of packets on the route.
    #[must_use]
    pub fn received(&self, route: u8) -> Count {
        self.received.get_or_create(&Route { route: route.to_string() }).clone()
    }

    /// Counts a packet or a bus message that was refused.
    pub fn refused(&self, reason: &'static str) {
        debug_assert!(ROUTING_ERRORS.contains(&reason), "a reason that is not listed: {reason}");
        self.routing_errors.get_or_create(&Reason { reason }).inc();
    }

    /// Counts messages that were lost.
    pub fn dropped(&self, reason: &'static str, messages: usize) {
        debug_assert!(DROPPED.contains(&reason), "a reason that is not listed: {reason}");
        self.dropped.get_or_create(&Reason { reason }).inc_by(messages as u64);
    }

    /// Records how many entries of a stream were not read yet.
    pub fn set_stream_lag(&self, topic: &Arc<str>, entries: u64) {
        let lag = self.stream_lag.get_or_create(&Topic { topic: Arc::clone(topic) });
        lag.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    /// Removes a stream from the report.
    pub fn forget_stream(&self, topic: &Arc<str>) {
        self.stream_lag.remove(&Topic { topic: Arc::clone(topic) });
    }

    /// Counts a connection that became no session.
    pub fn handshake_refused(&self, reason: &'static str) {
        debug_assert!(HANDSHAKES_REFUSED.contains(&reason), "a reason that is not listed: {reason}");
        self.handshakes_refused.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a fetch of the keys that check tokens.
    pub fn jwks_fetched(&self, outcome: &'static str) {
        debug_assert!(JWKS_FETCHES.contains(&outcome), "an outcome that is not listed: {outcome}");
        self.jwks_fetches.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts an outcome of loading a plugin's file or settings.
    pub fn reloaded(&self, plugin: &str, outcome: &'static str) {
        debug_assert!(RELOADS.contains(&outcome), "an outcome that is not listed: {outcome}");
        self.plugin_reloads.get_or_create(&NameOutcome { plugin: plugin.into(), outcome }).inc();
    }

    /// Removes the metrics of a plugin, or of a file that never became a plugin, from the report.
    pub fn forget_plugin(&self, name: &Arc<str>) {
        for outcome in RELOADS {
            self.plugin_reloads.remove(&NameOutcome { plugin: Arc::clone(name), outcome });
        }
        for outcome in CALLS {
            self.plugin_calls.remove(&NameOutcome { plugin: Arc::clone(name), outcome });
        }
        for reason in PUBLISHES_REFUSED {
            self.plugin_publishes_refused.remove(&NameReason { plugin: Arc::clone(name), reason });
        }
        // An empty list takes no name, so it cannot be refused.
        let _ = self.custom.declare(name, &[]);
        let label = Name { plugin: Arc::clone(name) };
        self.plugin_seconds.remove(&label);
        self.plugin_pushes.remove(&label);
        for family in [
            &self.plugin_generation,
            &self.plugin_live_generations,
            &self.plugin_instances,
            &self.plugin_memory,
            &self.plugin_quarantined,
        ] {
            family.remove(&label);
        }
    }

    /// Returns the metrics of one plugin. Its counters with known labels begin at 0, so that a rate can be computed from
    /// the first event on.
    #[must_use]
    pub fn plugin(&self, name: &Arc<str>) -> PluginMetrics {
        let calls =
            |outcome| self.plugin_calls.get_or_create(&NameOutcome { plugin: Arc::clone(name), outcome }).clone();
        CALLS.into_iter().for_each(|outcome| drop(calls(outcome)));
        for outcome in RELOADS {
            drop(self.plugin_reloads.get_or_create(&NameOutcome { plugin: Arc::clone(name), outcome }));
        }
        let label = Name { plugin: Arc::clone(name) };
        PluginMetrics {
            name: Arc::clone(name),
            ok: calls("ok"),
            rejected: calls("rejected"),
            publishes_refused: PUBLISHES_REFUSED.map(|reason| {
                let plugin = Arc::clone(name);
                (reason, self.plugin_publishes_refused.get_or_create(&NameReason { plugin, reason }).clone())
            }),
            pushes: self.plugin_pushes.get_or_create(&label).clone(),
            seconds: self.plugin_seconds.get_or_create(&label).clone(),
            all_calls: self.plugin_calls.clone(),
            generation: self.plugin_generation.get_or_create(&label).clone(),
            live_generations: self.plugin_live_generations.get_or_create(&label).clone(),
            instances: self.plugin_instances.get_or_create(&label).clone(),
            memory: self.plugin_memory.get_or_create(&label).clone(),
            quarantined: self.plugin_quarantined.get_or_create(&label).clone(),
        }
    }

    /// Returns all metrics in the text format of OpenMetrics 1.0.
    ///
    /// # Errors
    /// None in practice, because the text is written to a string.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

/// The metrics of one plugin.
#[derive(Debug)]
pub struct PluginMetrics {
    name: Arc<str>,
    /// Calls that ended with actions.
    pub ok: Count,
    /// Calls that ended with a rejection.
    pub rejected: Count,
    /// Publishes that were refused, by reason.
    publishes_refused: [(&'static str, Counter); 2],
    /// Messages that the plugin's deliveries put into send queues.
    pub pushes: Count,
    /// How long calls took.
    pub seconds: Seconds,
    all_calls: Family<NameOutcome, Count>,
    /// How often a plugin with this name was put to use.
    pub generation: Gauge,
    /// Generations that are alive.
    pub live_generations: Gauge,
    /// Instances that are alive.
    pub instances: Gauge,
    /// Linear memory of the instances in bytes.
    pub memory: Gauge,
    /// 1 while the plugin is in quarantine, and otherwise 0.
    pub quarantined: Gauge,
}

impl PluginMetrics {
    /// Counts publishes that were refused.
    pub fn publishes_refused(&self, reason: &'static str, publishes: usize) {
        if let Some((_, counter)) = self.publishes_refused.iter().find(|(known, _)| *known == reason) {
            counter.inc_by(publishes as u64);
        }
    }

    /// Returns the number of calls by outcome.
    #[must_use]
    pub fn calls_by_outcome(&self) -> BTreeMap<&'static str, u64> {
        CALLS.into_iter().map(|outcome| (outcome, self.calls(outcome).get())).collect()
    }

    /// Returns the counter of calls with this outcome. Handles of rare outcomes are not kept.
    #[must_use]
    pub fn calls(&self, outcome: &'static str) -> Count {
        self.all_calls.get_or_create(&NameOutcome { plugin: Arc::clone(&self.name), outcome }).clone()
    }
}
