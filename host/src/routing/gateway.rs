//! Serves packets and bus messages: each goes to a plugin, and the plugin's actions are carried out.

use super::{
    actions::{Executor, MessageCall, PacketCall, count_if_dropped},
    decision::{MessageAction, Rules},
    loops::Causes,
    origin::Origin,
    payload_limits::PayloadLimits,
    refusal::{self, Refusal},
    snapshot::{ServingPlugin, Snapshot},
};
use crate::{
    bus,
    delivery::{
        conduct::Penalty,
        outbox::Closing,
        registry::{Registry, Session},
    },
    plugin::{Action, Admission, Fault, Lease, Packet, Plugin, Rejection, Sender, SessionId, trace},
    telemetry::{metrics::Metrics, text},
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use gateway_wire::packet::{self, Header, Status};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{oneshot, watch};

/// The maximum number of messages that two or more deliveries of one call may put into send queues on a thread that
/// serves players. The offload thread carries out larger calls.
const MAX_INLINE_PUSHES: usize = 2048;

/// The state that all sessions and the bus share.
pub struct Gateway {
    /// The live sessions.
    pub registry: Arc<Registry>,
    /// The metrics of the gateway.
    pub metrics: Arc<Metrics>,
    /// The largest payload in bytes that each route takes.
    pub payload_limits: Arc<PayloadLimits>,
    executor: Executor,
    snapshot: ArcSwap<Snapshot>,
    /// The lock that is held while a new snapshot is made from the current one.
    installing: Mutex<()>,
    topics: watch::Sender<BTreeSet<String>>,
    max_message_bytes: usize,
}

impl bus::Handler for Arc<Gateway> {
    type Origin = Origin;

    fn message(&self, topic: &str, body: &Bytes, cause: Option<&Origin>) -> usize {
        self.on_message(topic, body, cause)
    }

    fn is_served(&self, origin: &Origin) -> bool {
        self.snapshot.load().route(origin.header.route).is_some()
    }

    fn refused(&self, origin: &Origin, why: &str) {
        if let Some(session) = self.registry.session(origin.session) {
            let header = origin.header.reply(Status::Unavailable as u16);
            count_if_dropped(
                &self.metrics,
                &session,
                session.outbox.reply(header, Bytes::copy_from_slice(why.as_bytes())),
            );
        }
    }
}

/// Resolves when the offload thread has served a packet. An error means that serving the packet panicked.
pub type Offloaded = oneshot::Receiver<()>;

impl Gateway {
    /// Returns a gateway that serves no route yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, bus: Arc<bus::Queue<Origin>>, max_message_bytes: usize) -> Self {
        let registry = Arc::<Registry>::default();
        Self {
            executor: Executor {
                registry: Arc::clone(&registry),
                bus,
                causes: Causes::default(),
                metrics: Arc::clone(&metrics),
            },
            registry,
            snapshot: ArcSwap::from_pointee(Snapshot::new(Vec::new(), None, &metrics)),
            installing: Mutex::default(),
            metrics,
            payload_limits: Arc::default(),
            topics: watch::Sender::default(),
            max_message_bytes,
        }
    }

    /// Replaces the plugins that serve, from the next packet and the next message on.
    pub fn install(&self, plugins: Vec<Arc<Plugin>>) {
        let installing = self.installing.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = Snapshot::new(plugins, Some(&self.snapshot.load()), &self.metrics);
        let topics = snapshot.topics();
        // The topics are set first, so that publishes of the new plugins wait until the bus can receive their answers.
        self.topics.send_if_modified(|current| {
            let changed = *current != topics;
            *current = topics;
            changed
        });
        self.payload_limits.set(&snapshot);
        self.snapshot.store(Arc::new(snapshot));
        drop(installing);
        self.executor.causes.clear();
    }

    /// Returns the plugins that serve now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Returns a watch on the topics that the plugins subscribe to.
    #[must_use]
    pub fn topics(&self) -> watch::Receiver<BTreeSet<String>> {
        self.topics.subscribe()
    }

    /// Returns the number of publishes that wait for the bus.
    #[must_use]
    pub fn waiting_publishes(&self) -> usize {
        self.executor.bus.len()
    }

    /// Serves one packet, or answers it with the reason for a refusal. The session's next packet has to wait for the
    /// returned future, if there is one.
    pub fn on_packet(self: &Arc<Self>, session: &Arc<Session>, packet: Bytes) -> Option<Offloaded> {
        match packet::parse(packet) {
            Ok((header, payload)) => self.route(session, header, &payload).unwrap_or_else(|refusal| {
                self.refuse(session, header, &refusal);
                None
            }),
            Err(error) => {
                self.refuse(session, Header::default(), &Refusal::TooShort(error));
                None
            }
        }
    }

    /// Answers a packet after its payload was dropped, because its route takes only `max` bytes.
    pub fn on_oversized_packet(&self, session: &Arc<Session>, header: Header, bytes: usize, max: usize) {
        let refusal = match self.find(&self.snapshot.load(), header.route) {
            Ok(_) => Refusal::PayloadTooLarge { bytes, max },
            Err(refusal) => refusal,
        };
        self.refuse(session, header, &refusal);
    }

    /// Finds the route of a received packet, and counts the packet.
    fn find<'a>(&self, snapshot: &'a Snapshot, route: u8) -> Result<&'a Arc<ServingPlugin>, Refusal> {
        let Some(found) = snapshot.route(route) else {
            self.metrics.received_unrouted.inc();
            return Err(Refusal::NoRoute(route));
        };
        found.received.inc();
        Ok(&found.served)
    }

    fn route(
        self: &Arc<Self>,
        session: &Arc<Session>,
        header: Header,
        payload: &Bytes,
    ) -> Result<Option<Offloaded>, Refusal> {
        let snapshot = self.snapshot.load();
        let served = self.find(&snapshot, header.route)?;
        let plugin = &served.plugin;
        let max = plugin.settings().max_payload;
        if payload.len() > max {
            return Err(Refusal::PayloadTooLarge { bytes: payload.len(), max });
        }
        if session.conduct.is_paused() {
            return Err(Refusal::Paused);
        }
        let call = PacketCall { served, session, header, payload };
        if !session.conduct.is_offloaded()
            && let Some(lease) = plugin.lease()
        {
            let actions = self.decide(&call, lease, &snapshot)?;
            let pushes = self.executor.count_pushes(&actions);
            if pushes <= MAX_INLINE_PUSHES {
                return self.executor.answer_packet(&call, actions, pushes).map(|()| None);
            }
            return self.offload(&call, move |gateway, call| gateway.executor.answer_packet(call, actions, pushes));
        }
        if plugin.admits_nothing() {
            return Err(Refusal::Quarantined);
        }
        let snapshot = Arc::clone(&snapshot);
        self.offload(&call, move |gateway, call| {
            let actions = gateway.decide(call, call.served.plugin.lease_offloaded(), &snapshot)?;
            let pushes = gateway.executor.count_pushes(&actions);
            gateway.executor.answer_packet(call, actions, pushes)
        })
    }

    /// Serves a packet on the plugin's offload thread.
    fn offload(
        self: &Arc<Self>,
        call: &PacketCall<'_>,
        serve: impl FnOnce(&Self, &PacketCall<'_>) -> Result<(), Refusal> + Send + 'static,
    ) -> Result<Option<Offloaded>, Refusal> {
        let (done, offloaded) = oneshot::channel();
        let (gateway, served, session) = (Arc::clone(self), Arc::clone(call.served), Arc::clone(call.session));
        let (header, payload) = (call.header, call.payload.clone());
        let job = move || {
            let call = PacketCall { served: &served, session: &session, header, payload: &payload };
            if let Err(refusal) = serve(&gateway, &call) {
                gateway.refuse(&session, header, &refusal);
            }
            // An error means that the session has ended.
            let _ = done.send(());
        };
        call.served.plugin.offload_thread().submit(call.payload.len(), Box::new(job)).map_err(|_| Refusal::Busy)?;
        Ok(Some(offloaded))
    }

    /// Asks the plugin for its decision on a packet.
    fn decide(&self, call: &PacketCall<'_>, lease: Lease<'_>, snapshot: &Snapshot) -> Result<Vec<Action>, Refusal> {
        let PacketCall { served, session, header, payload } = call;
        let plugin = &served.plugin;
        let admission = plugin.admit().ok_or(Refusal::Quarantined)?;
        let (high, low) = session.id.as_u64_pair();
        let packet = Packet {
            seq: header.seq,
            route: header.route,
            flags: header.flags,
            session: SessionId { high, low },
            user: session.user(),
        };
        let (verdict, usage) = trace::within(
            &trace::on_packet(plugin.name(), plugin.version(), &packet),
            || {
                let (decision, usage) = lease.on_packet(packet, payload);
                let check = |decision| self.rules(snapshot, plugin).check_packet(decision).map_err(Fault::Answer);
                (decision.and_then(check), usage)
            },
            |(verdict, _)| trace::outcome(verdict),
        );
        if usage.is_slow() {
            session.conduct.record_slow();
        }
        self.record_outcome(plugin, Sender::Session(session.id), &admission, &usage, verdict)
    }

    /// Records the outcome of a call, and returns the actions to be carried out.
    fn record_outcome<A>(
        &self,
        plugin: &Arc<Plugin>,
        sender: Sender,
        admission: &Admission,
        usage: &crate::plugin::Usage,
        verdict: Result<Result<Vec<A>, Rejection>, Fault>,
    ) -> Result<Vec<A>, Refusal> {
        plugin.settle(sender, admission, usage, verdict.as_ref());
        match verdict {
            Ok(answer) => answer.map_err(Refusal::Rejected),
            Err(fault) => {
                let generation = format!("{}, generation {}", plugin.name(), plugin.number());
                if self.metrics.log_limits.permit("plugin call failed", &generation) {
                    let (name, version) = (&**plugin.name(), plugin.version());
                    tracing::error!(plugin = name, version, "plugin call failed: {fault}");
                }
                Err(Refusal::Fault)
            }
        }
    }

    /// Counts a failed call against the session that caused it, and closes the session after too many failed calls.
    fn blame(session: &Session) {
        if session.conduct.record_failed() == Penalty::Close {
            let reason = "too many of the session's packets made a plugin fail".to_owned();
            session.outbox.close(Closing { code: 1008, reason, cause: "plugin_faults" });
        }
    }

    fn rules<'a>(&self, snapshot: &'a Snapshot, plugin: &Plugin) -> Rules<'a> {
        let max_actions = plugin.settings().limits.actions;
        Rules { snapshot, max_message_bytes: self.max_message_bytes, max_actions }
    }

    /// Passes a bus message to the plugins that subscribe to its topic. Returns the number of these plugins.
    pub fn on_message(self: &Arc<Self>, topic: &str, payload: &Bytes, cause: Option<&Origin>) -> usize {
        let snapshot = self.snapshot.load();
        let subscribers = snapshot.subscribers(topic);
        let sender = cause.map_or(Sender::Bus, |origin| Sender::Session(origin.session));
        for served in subscribers {
            let call = MessageCall { served, topic, payload };
            let Some(lease) = served.plugin.lease_in_order() else {
                let snapshot = Arc::clone(&snapshot);
                self.offload_message(&call, move |gateway, call| {
                    gateway.decide_on_message(call, call.served.plugin.lease_offloaded(), &snapshot, sender).and_then(
                        |actions| {
                            let pushes = gateway.executor.count_pushes_of_message(&actions);
                            gateway.executor.answer_message(call, actions, pushes)
                        },
                    )
                });
                continue;
            };
            match self.decide_on_message(&call, lease, &snapshot, sender) {
                Ok(actions) => {
                    let pushes = self.executor.count_pushes_of_message(&actions);
                    if pushes <= MAX_INLINE_PUSHES {
                        self.record_loss(&call, self.executor.answer_message(&call, actions, pushes));
                    } else {
                        self.offload_message(&call, move |gateway, call| {
                            gateway.executor.answer_message(call, actions, pushes)
                        });
                    }
                }
                Err(refusal) => self.record_loss(&call, Err(refusal)),
            }
        }
        subscribers.len()
    }

    fn offload_message(
        self: &Arc<Self>,
        call: &MessageCall<'_>,
        serve: impl FnOnce(&Self, &MessageCall<'_>) -> Result<(), Refusal> + Send + 'static,
    ) {
        let (gateway, served) = (Arc::clone(self), Arc::clone(call.served));
        let (topic, payload) = (call.topic.to_owned(), call.payload.clone());
        let job = move || {
            let call = MessageCall { served: &served, topic: &topic, payload: &payload };
            gateway.record_loss(&call, serve(&gateway, &call));
        };
        if call.served.plugin.offload_thread().submit_message(call.payload.len(), Box::new(job)).is_err() {
            self.record_loss(call, Err(Refusal::Busy));
        }
    }

    fn decide_on_message(
        &self,
        call: &MessageCall<'_>,
        lease: Lease<'_>,
        snapshot: &Snapshot,
        sender: Sender,
    ) -> Result<Vec<MessageAction>, Refusal> {
        let plugin = &call.served.plugin;
        let admission = plugin.admit().ok_or(Refusal::Quarantined)?;
        let (verdict, usage) = trace::within(
            &trace::on_message(plugin.name(), plugin.version(), call.topic),
            || {
                let (decision, usage) = lease.on_message(call.topic, call.payload);
                let check = |decision| self.rules(snapshot, plugin).check_message(decision).map_err(Fault::Answer);
                (decision.and_then(check), usage)
            },
            |(verdict, _)| trace::outcome(verdict),
        );
        let decided = self.record_outcome(plugin, sender, &admission, &usage, verdict);
        if let (Err(Refusal::Fault), Sender::Session(id)) = (&decided, sender)
            && let Some(session) = self.registry.session(id)
        {
            Self::blame(&session);
        }
        decided
    }

    /// Counts and logs a message that was not served.
    fn record_loss(&self, call: &MessageCall<'_>, outcome: Result<(), Refusal>) {
        let Err(refusal) = outcome else { return };
        match refusal.message_loss() {
            Ok(dropped) => self.metrics.dropped(dropped, 1),
            Err(refused) => self.metrics.refused(refused),
        }
        let plugin = &**call.served.plugin.name();
        if self.metrics.log_limits.permit("bus message refused", plugin) {
            let (_, why) = refusal.answer();
            let (topic, why) = (text::bounded(call.topic), text::bounded(why));
            tracing::warn!(topic, bytes = call.payload.len(), plugin, why, "bus message refused");
        }
    }

    /// Answers a packet with the reason why it is not served.
    fn refuse(&self, session: &Arc<Session>, header: Header, refusal: &Refusal) {
        let (status, why) = refusal.answer();
        self.metrics.refused(refusal::reason(status));
        if self.metrics.log_limits.permit("packet refused", refusal::reason(status)) {
            let (session, route, why) = (session.id, header.route, text::bounded(&why));
            tracing::warn!(%session, route, seq = header.seq, status, why, "packet refused");
        }
        count_if_dropped(&self.metrics, session, session.outbox.reply(header.reply(status), Bytes::from(why)));
        if matches!(refusal, Refusal::Fault) {
            Self::blame(session);
        }
    }
}
