//! The two ways a message travels: packet to plugin to actions, and bus message to plugin to actions.

use super::{
    actions::{MessageCall, PacketCall, queued},
    decision::{MessageAction, Rules},
    loops::Causes,
    payload_limits::PayloadLimits,
    refusal::{self, Refusal},
    snapshot::{Served, Snapshot},
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
use uuid::Uuid;

/// The messages that the deliveries of one call may put into send queues on a thread that serves players. Above that, the offload thread does it.
const MAX_INLINE_PUSHES: usize = 2048;

/// What every session and the bus share.
pub struct Gateway {
    /// The live sessions.
    pub registry: Arc<Registry>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The bytes of payload that each route takes.
    pub payload_limits: Arc<PayloadLimits>,
    pub(super) bus: Arc<bus::Queue<Origin>>,
    pub(super) causes: Causes,
    snapshot: ArcSwap<Snapshot>,
    /// Held while a snapshot is made of the one before it.
    installing: Mutex<()>,
    topics: watch::Sender<BTreeSet<String>>,
    max_message_bytes: usize,
}

/// The packet that a publish came from, to be answered if the bus does not take it.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The session's id, not the session itself: two threads would write its reference count for each packet.
    pub(super) session: Uuid,
    pub(super) header: Header,
}

impl bus::Handler for Arc<Gateway> {
    type Origin = Origin;

    fn message(&self, topic: &str, body: &Bytes, cause: Option<&Origin>) -> usize {
        self.on_message(topic, body, cause)
    }

    fn refused(&self, origin: &Origin, why: &str) {
        if let Some(session) = self.registry.session(origin.session) {
            let header = origin.header.reply(Status::Unavailable as u16);
            queued(&self.metrics, &session, session.outbox.reply(header, Bytes::copy_from_slice(why.as_bytes())));
        }
    }
}

/// A packet whose call was offloaded. It resolves when the packet has been served, with an error if that ended in a panic.
pub type Offloaded = oneshot::Receiver<()>;

impl Gateway {
    /// A gateway that serves no route yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, bus: Arc<bus::Queue<Origin>>, max_message_bytes: usize) -> Self {
        Self {
            registry: Arc::default(),
            bus,
            causes: Causes::default(),
            snapshot: ArcSwap::from_pointee(Snapshot::new(Vec::new(), None, &metrics)),
            installing: Mutex::default(),
            metrics,
            payload_limits: Arc::default(),
            topics: watch::Sender::default(),
            max_message_bytes,
        }
    }

    /// Lets other plugins serve, from the next packet and the next message on.
    pub fn install(&self, plugins: Vec<Arc<Plugin>>) {
        let installing = self.installing.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = Snapshot::new(plugins, Some(&self.snapshot.load()), &self.metrics);
        let topics = snapshot.topics();
        // The topics first: what the new plugins publish then waits until the bus hears the answers.
        self.topics.send_if_modified(|current| {
            let changed = *current != topics;
            *current = topics;
            changed
        });
        self.payload_limits.set(&snapshot);
        self.snapshot.store(Arc::new(snapshot));
        drop(installing);
        self.causes.clear();
    }

    /// The plugins that serve now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The topics that the plugins subscribe to, and every change of them.
    #[must_use]
    pub fn topics(&self) -> watch::Receiver<BTreeSet<String>> {
        self.topics.subscribe()
    }

    /// The number of publishes that wait for the bus.
    #[must_use]
    pub fn waiting_publishes(&self) -> usize {
        self.bus.len()
    }

    /// Serves one packet, or answers it with the reason why not. The session's next packet has to wait for what this returns.
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

    /// Answers a packet whose payload was not kept, since its route takes only `max` bytes.
    pub fn on_oversized_packet(&self, session: &Arc<Session>, header: Header, bytes: usize, max: usize) {
        let refusal = match self.find(&self.snapshot.load(), header.route) {
            Ok(_) => Refusal::PayloadTooLarge { bytes, max },
            Err(refusal) => refusal,
        };
        self.refuse(session, header, &refusal);
    }

    /// The route of a packet that was received, which is counted.
    fn find<'a>(&self, snapshot: &'a Snapshot, route: u8) -> Result<&'a Arc<Served>, Refusal> {
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
            let pushes = self.pushes(&actions);
            if pushes <= MAX_INLINE_PUSHES {
                return self.answer_packet(&call, actions, pushes).map(|()| None);
            }
            return self.offload(&call, move |gateway, call| gateway.answer_packet(call, actions, pushes));
        }
        if plugin.is_barred() {
            return Err(Refusal::Quarantined);
        }
        let snapshot = Arc::clone(&snapshot);
        self.offload(&call, move |gateway, call| {
            let actions = gateway.decide(call, call.served.plugin.lease_offloaded(), &snapshot)?;
            let pushes = gateway.pushes(&actions);
            gateway.answer_packet(call, actions, pushes)
        })
    }

    /// Lets the plugin's offload thread serve a packet.
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
            // An error means that the session has ended meanwhile.
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
            &trace::on_packet(plugin, &packet),
            || {
                let (decision, usage) = lease.on_packet(packet, payload);
                let check = |decision| self.rules(snapshot, plugin).check_packet(decision).map_err(Fault::Answer);
                (decision.and_then(check), usage)
            },
            |(verdict, _)| trace::outcome(verdict),
        );
        if usage.is_slow() {
            session.conduct.slow();
        }
        self.settled(plugin, Sender::Session(session.id), &admission, &usage, verdict)
    }

    /// Records what came of a call, and returns the actions that are to be carried out.
    fn settled<A>(
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

    /// Holds a failed call against the session that caused it.
    fn blame(session: &Session) {
        if session.conduct.failed() == Penalty::Close {
            let reason = "too many of the session's packets made a plugin fail".to_owned();
            session.outbox.close(Closing { code: 1008, reason, cause: "plugin_faults" });
        }
    }

    fn rules<'a>(&self, snapshot: &'a Snapshot, plugin: &Plugin) -> Rules<'a> {
        let max_actions = plugin.settings().limits.actions;
        Rules { snapshot, max_message_bytes: self.max_message_bytes, max_actions }
    }

    /// Hands a message of the bus to the plugins that subscribe to its topic, and returns their number.
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
                            let pushes = gateway.pushes_of_message(&actions);
                            gateway.answer_message(call, actions, pushes)
                        },
                    )
                });
                continue;
            };
            match self.decide_on_message(&call, lease, &snapshot, sender) {
                Ok(actions) => {
                    let pushes = self.pushes_of_message(&actions);
                    if pushes <= MAX_INLINE_PUSHES {
                        self.account(&call, self.answer_message(&call, actions, pushes));
                    } else {
                        self.offload_message(&call, move |gateway, call| gateway.answer_message(call, actions, pushes));
                    }
                }
                Err(refusal) => self.account(&call, Err(refusal)),
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
            gateway.account(&call, serve(&gateway, &call));
        };
        if call.served.plugin.offload_thread().submit_message(call.payload.len(), Box::new(job)).is_err() {
            self.account(call, Err(Refusal::Busy));
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
            &trace::on_message(plugin, call.topic),
            || {
                let (decision, usage) = lease.on_message(call.topic, call.payload);
                let check = |decision| self.rules(snapshot, plugin).check_message(decision).map_err(Fault::Answer);
                (decision.and_then(check), usage)
            },
            |(verdict, _)| trace::outcome(verdict),
        );
        let decided = self.settled(plugin, sender, &admission, &usage, verdict);
        if let (Err(Refusal::Fault), Sender::Session(id)) = (&decided, sender)
            && let Some(session) = self.registry.session(id)
        {
            Self::blame(&session);
        }
        decided
    }

    /// Counts and logs a message that was not served.
    fn account(&self, call: &MessageCall<'_>, outcome: Result<(), Refusal>) {
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
        queued(&self.metrics, session, session.outbox.reply(header.reply(status), Bytes::from(why)));
        if matches!(refusal, Refusal::Fault) {
            Self::blame(session);
        }
    }
}
