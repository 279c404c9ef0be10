//! The state that all sessions and the bus share, and the way in of packets.

use super::{
    accounts::Accounts,
    actions::Executor,
    asked::Batch,
    calls::{Call, Occasion},
    closings::Closings,
    effects::count_if_dropped,
    handovers::{Handovers, Parts, Ways},
    interests::Heard,
    loops::Causes,
    origin::Origin,
    payload_limits::PayloadLimits,
    progress::Progress,
    refusal::{self, Refusal},
    snapshot::{ServingPlugin, Snapshot},
    views::Views,
};
use crate::{
    bus::{self, Load, Message, Topics},
    delivery::{
        conduct::Penalty,
        outbox::{Closing, Limits, Outcome},
        owner::Owner,
        registry::Registry,
        session::Session,
    },
    plugin::Plugin,
    telemetry::{metrics::Metrics, text},
    traces::Traces,
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use gateway_wire::packet::{self, Header, ROUTE_CONTROL, Status};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};
use tokio::sync::oneshot;
use uuid::Uuid;

/// The state that all sessions and the bus share.
pub struct Gateway {
    /// The live sessions.
    pub registry: Arc<Registry>,
    /// The metrics of the gateway.
    pub metrics: Arc<Metrics>,
    /// The largest payload in bytes that each route takes.
    pub payload_limits: Arc<PayloadLimits>,
    /// What is kept for the plugins over all their generations.
    pub accounts: Arc<Accounts>,
    /// The sessions that operators close, on this gateway and on the others.
    pub closings: Closings,
    /// The sessions that move between this gateway and others.
    pub handovers: Arc<Handovers>,
    /// The traces that are recorded, if any are.
    pub traces: Arc<Traces>,
    pub(super) executor: Executor,
    pub(super) snapshot: ArcSwap<Snapshot>,
    /// The names of the plugins without which no session begins.
    pub(super) required: ArcSwap<Vec<String>>,
    /// The lock that is held while a new snapshot is made from the current one.
    installing: Mutex<()>,
    topics: Arc<Topics>,
    pub(super) heard: Arc<Heard>,
    pub(super) max_message_bytes: usize,
    /// The number of ended sessions whose end a plugin has not been told yet.
    pub(super) departing: AtomicUsize,
    /// Whether the outcome is known for each plugin file that was there at the start.
    pub(super) is_loaded: AtomicBool,
    /// What plugins know of the clients of sessions.
    pub(super) views: Views,
}

impl bus::Handler for Arc<Gateway> {
    type Origin = Origin;

    async fn messages(&self, messages: Vec<Message<Origin>>) -> Vec<Message<Origin>> {
        self.on_messages(messages).await
    }

    fn takes_entries(&self, stream: &str) -> bool {
        let snapshot = self.snapshot.load();
        self.hearers(stream, &snapshot).all(|served| served.plugin.offload_thread().takes_entries())
    }

    fn is_served(&self, origin: &Origin) -> bool {
        self.snapshot.load().route(origin.header.route).is_some()
    }

    async fn missed(&self, blind: Duration) {
        self.tell_gap(blind).await;
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

/// What is left to do for a packet.
pub enum Served {
    /// Nothing.
    Done,
    /// The session's next packet has to wait for this.
    Offloaded(Offloaded),
    /// The packet is for the gateway itself, and its session has to answer it. The box keeps the other cases small.
    Control(Box<(Header, Bytes)>),
}

impl Gateway {
    /// Returns a gateway that serves no route yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, bus: Arc<bus::Queue<Origin>>, max_message_bytes: usize) -> Self {
        let topics = Arc::<Topics>::default();
        let heard = Arc::new(Heard::new(Arc::clone(&topics)));
        let traces = Arc::<Traces>::default();
        let registry = Arc::new(Registry::new(Box::new(Arc::clone(&heard))));
        let accounts = Arc::new(Accounts::new(Arc::clone(&registry), Arc::clone(&traces)));
        // The host's own topic is heard from the start, before there is any plugin.
        topics.set_fixed(Snapshot::default().topics());
        let parts = Parts {
            registry: Arc::clone(&registry),
            accounts: Arc::clone(&accounts),
            heard: Arc::clone(&heard),
            topics: Arc::clone(&topics),
            bus: Arc::clone(&bus),
            host: Arc::new(Owner::new(u32::MAX)),
        };
        Self {
            closings: Closings::new(Arc::clone(&registry), Arc::clone(&bus), Arc::clone(&metrics)),
            handovers: Arc::new(Handovers::new(Uuid::new_v4(), parts, Arc::clone(&metrics), max_message_bytes)),
            executor: Executor {
                registry: Arc::clone(&registry),
                bus,
                causes: Causes::default(),
                traces: Arc::clone(&traces),
                metrics: Arc::clone(&metrics),
            },
            registry,
            traces,
            accounts,
            snapshot: ArcSwap::default(),
            required: ArcSwap::default(),
            installing: Mutex::default(),
            metrics,
            payload_limits: Arc::default(),
            topics,
            heard,
            max_message_bytes,
            departing: AtomicUsize::new(0),
            is_loaded: AtomicBool::new(false),
            views: Views::default(),
        }
    }

    /// Lets sessions move between this gateway and others of the same Redis. Those that come here get these limits, and
    /// those that wait in Redis do so for the time `window`. `is_ordered` says whether all messages of the bus come in
    /// one order.
    pub fn enable_handovers(&self, limits: Arc<Limits>, is_ordered: bool, keys: bus::Keys, window: Duration) {
        let installing = self.installing.lock().unwrap_or_else(PoisonError::into_inner);
        self.handovers.enable(Ways { limits, is_ordered, keys, window });
        self.topics.set_fixed(self.fixed_topics(&self.snapshot.load()));
        drop(installing);
    }

    /// Returns the topics that are heard while the snapshot serves, whatever sessions listen to.
    fn fixed_topics(&self, snapshot: &Snapshot) -> BTreeSet<String> {
        snapshot.topics().into_iter().chain(self.handovers.topic()).collect()
    }

    /// Replaces the plugins that serve, from the next packet and the next message on.
    pub fn install(&self, plugins: Vec<Arc<Plugin>>) {
        let installing = self.installing.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = Snapshot::new(plugins, &self.accounts, &self.metrics);
        // The topics are set first, so that publishes of the new plugins wait until the bus can receive their answers.
        self.topics.set_fixed(self.fixed_topics(&snapshot));
        self.payload_limits.set(&snapshot);
        for served in snapshot.served() {
            // A call of an older generation that still runs is refused if the formats differ.
            served.account.kept.store.set_format(served.plugin.state_format());
            served.account.kept.store.set_max_bytes(served.plugin.settings().limits.state);
        }
        self.snapshot.store(Arc::new(snapshot));
        self.accounts.sweep();
        drop(installing);
        self.executor.causes.clear();
        // A plugin that came back may have timers that are due.
        self.accounts.timer_set.notify_one();
    }

    /// Returns the plugins that serve now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Returns the topics that the bus has to deliver.
    #[must_use]
    pub fn topics(&self) -> Arc<Topics> {
        Arc::clone(&self.topics)
    }

    /// Returns the number and the size of the publishes that wait for the bus.
    #[must_use]
    pub fn waiting_publishes(&self) -> Load {
        self.executor.bus.load()
    }

    /// Serves one packet, or answers it with the reason for a refusal.
    pub fn on_packet(self: &Arc<Self>, session: &Arc<Session>, packet: Bytes) -> Served {
        self.on_packet_of(&mut None, session, packet)
    }

    /// Serves the next packet of a batch. If there is no decision on it, the plugin is called.
    pub fn on_packet_of(self: &Arc<Self>, batch: &mut Option<Batch>, session: &Arc<Session>, packet: Bytes) -> Served {
        match packet::parse(packet) {
            Ok((header, payload)) => match self.route(batch, session, header, &payload) {
                Ok(None) => Served::Done,
                Ok(Some(offloaded)) => Served::Offloaded(offloaded),
                // No plugin serves this route, so the packets of plugins do not pay for the comparison.
                Err(Refusal::NoRoute(ROUTE_CONTROL)) => Served::Control(Box::new((header, payload))),
                Err(refusal) => {
                    self.refuse(session, header, &refusal);
                    Served::Done
                }
            },
            Err(error) => {
                self.refuse(session, Header::default(), &Refusal::TooShort(error));
                Served::Done
            }
        }
    }

    /// Answers a packet for the gateway itself. `Err` is the status and the text of a refusal.
    pub fn answer_control(&self, session: &Arc<Session>, header: Header, outcome: Result<(), (Status, String)>) {
        match outcome {
            Ok(()) => {
                let header = header.reply(Status::Ok as u16);
                count_if_dropped(&self.metrics, session, session.outbox.reply(header, Bytes::new()));
            }
            Err((status, why)) => self.refuse(session, header, &Refusal::Control(status, why)),
        }
    }

    /// Answers a packet after its payload was dropped, because its route takes only `max` bytes.
    pub fn on_oversized_packet(&self, session: &Arc<Session>, header: Header, bytes: usize, max: usize) {
        let refusal = match self.find(&self.snapshot.load(), header.route) {
            Ok(_) | Err(Refusal::NoRoute(ROUTE_CONTROL)) => Refusal::PayloadTooLarge { bytes, max },
            Err(refusal) => refusal,
        };
        self.refuse(session, header, &refusal);
    }

    /// Answers a packet that is not served because its session sends more than it may.
    pub fn on_excess_packet(&self, session: &Arc<Session>, header: Header) {
        // The packet is counted, and its route does not matter.
        let _ = self.find(&self.snapshot.load(), header.route);
        self.refuse(session, header, &Refusal::TooManyPackets);
    }

    /// Finds the route of a received packet, and counts the packet.
    fn find<'a>(&self, snapshot: &'a Snapshot, route: u8) -> Result<&'a Arc<ServingPlugin>, Refusal> {
        let Some(found) = snapshot.route(route) else {
            if route == ROUTE_CONTROL {
                self.metrics.received(route).inc();
            } else {
                self.metrics.received_unrouted.inc();
            }
            return Err(Refusal::NoRoute(route));
        };
        found.received.inc();
        Ok(&found.served)
    }

    fn route(
        self: &Arc<Self>,
        batch: &mut Option<Batch>,
        session: &Arc<Session>,
        header: Header,
        payload: &Bytes,
    ) -> Result<Option<Offloaded>, Refusal> {
        let decision = batch.as_mut().and_then(Batch::next);
        let snapshot = self.snapshot.load();
        let served = self.find(&snapshot, header.route)?;
        let max = served.plugin.settings().max_payload;
        if payload.len() > max {
            return Err(Refusal::PayloadTooLarge { bytes: payload.len(), max });
        }
        if session.conduct.is_paused() {
            return Err(Refusal::Paused);
        }
        let call = Call { served, occasion: Occasion::Packet { session, header, payload } };
        let early = decision.and_then(|decision| self.serve_from(batch, decision, session, &call));
        let Progress::Left(rest) = early.unwrap_or_else(|| self.serve(&call, &snapshot))? else { return Ok(None) };
        if served.plugin.admits_nothing() {
            return Err(Refusal::Quarantined);
        }
        let (done, offloaded) = oneshot::channel();
        self.offload(call.owned(), Arc::clone(&snapshot), rest, move |gateway, call, outcome| {
            if let (Err(refusal), Some(session)) = (outcome, call.session()) {
                gateway.refuse(session, header, &refusal);
            }
            // An error means that the session has ended.
            let _ = done.send(());
        })?;
        Ok(Some(offloaded))
    }

    /// Counts and logs messages that were dropped from the send queue of a session.
    pub fn count_evicted(&self, session: &Session, dropped: usize) {
        if dropped > 0 {
            count_if_dropped(&self.metrics, session, Outcome::Evicted(dropped));
        }
    }

    /// Counts a failed call against the session that caused it, and closes the session after too many failed calls.
    pub(super) fn blame(session: &Session) {
        if session.conduct.record_failed() == Penalty::Close {
            let reason = "too many of the session's packets made a plugin fail".to_owned();
            session.outbox.close(Closing { code: 1008, reason, cause: "plugin_faults" });
        }
    }

    /// Answers a packet with the reason why it is not served.
    fn refuse(&self, session: &Arc<Session>, header: Header, refusal: &Refusal) {
        let (status, why) = refusal.answer();
        self.metrics.refused(refusal::reason(status));
        if self.metrics.log_limits.permit("packet refused", refusal::reason(status)) {
            let (session, remote, why) = (session.id, session.remote(), text::bounded(&why));
            let Header { route, seq, .. } = header;
            tracing::warn!(%session, %remote, route, seq, status, why, "packet refused");
        }
        count_if_dropped(&self.metrics, session, session.outbox.reply(header.reply(status), Bytes::from(why)));
        if matches!(refusal, Refusal::Fault) {
            Self::blame(session);
        }
    }
}
