//! The two ways a message travels: packet to plugin to actions, and bus message to plugin to actions.

mod actions;
mod refusal;

use crate::{
    bus,
    delivery::registry::{Registry, Session},
    packet::{self, Header, Status},
    plugin::{Decision, Packet, Seat, SessionId},
    routing::snapshot::Snapshot,
    telemetry::{metrics::Metrics, text},
};
use actions::{Call, queued};
use arc_swap::ArcSwap;
use bytes::Bytes;
use refusal::Refusal;
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

/// What every session and the bus share.
pub struct Gateway {
    /// Who is here.
    pub registry: Arc<Registry>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    snapshot: ArcSwap<Snapshot>,
    topics: watch::Sender<BTreeSet<String>>,
    bus: Arc<bus::Queue<Origin>>,
    max_message_bytes: usize,
}

/// The packet that a publish came from, to be answered if the bus does not take it.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Its id, not the session itself: two threads would write its count of references for each packet.
    session: Uuid,
    header: Header,
}

impl bus::Handler for Arc<Gateway> {
    type Origin = Origin;

    fn message(&self, topic: &str, body: &Bytes) -> usize {
        self.on_message(topic, body)
    }

    fn refused(&self, origin: &Origin, why: String) {
        if let Some(session) = self.registry.session(origin.session) {
            let header = origin.header.reply(Status::Unavailable as u16);
            queued(&self.metrics, &session, session.outbox.reply(header, Bytes::from(why)));
        }
    }
}

/// A packet whose plugin is slow and decides beside the threads that serve players. Ready when the packet has been served; an
/// error where that ended in a panic.
pub type Aside = oneshot::Receiver<()>;

impl Gateway {
    /// A gateway that serves no route yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, bus: Arc<bus::Queue<Origin>>, max_message_bytes: usize) -> Self {
        Self {
            registry: Arc::default(),
            snapshot: ArcSwap::from_pointee(Snapshot::new(Vec::new(), &metrics)),
            metrics,
            topics: watch::Sender::default(),
            bus,
            max_message_bytes,
        }
    }

    /// Puts other plugins to use, from the next packet and the next message on.
    pub fn install(&self, snapshot: Snapshot) {
        let topics = snapshot.topics();
        // The topics first: what the new plugins publish then waits until the bus hears the answers.
        self.topics.send_if_modified(|current| {
            let changed = *current != topics;
            *current = topics;
            changed
        });
        self.snapshot.store(Arc::new(snapshot));
    }

    /// The plugins that serve now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The topics that the plugins hear, and every change of them.
    #[must_use]
    pub fn topics(&self) -> watch::Receiver<BTreeSet<String>> {
        self.topics.subscribe()
    }

    /// How many publishes wait for the bus.
    #[must_use]
    pub fn waiting_publishes(&self) -> usize {
        self.bus.len()
    }

    /// Serves one packet, or answers it with the reason why not. The session's next packet has to wait for what this answers with.
    pub fn on_packet(self: &Arc<Self>, session: &Arc<Session>, packet: Bytes) -> Option<Aside> {
        match packet::parse(packet) {
            Ok((header, payload)) => self.route(session, header, payload).unwrap_or_else(|refusal| {
                self.refuse(session, header, &refusal);
                None
            }),
            Err(error) => {
                self.refuse(session, Header::default(), &Refusal::TooShort(error));
                None
            }
        }
    }

    fn route(
        self: &Arc<Self>,
        session: &Arc<Session>,
        header: Header,
        payload: Bytes,
    ) -> Result<Option<Aside>, Refusal> {
        let snapshot = self.snapshot.load();
        let Some(route) = snapshot.route(header.route) else {
            self.metrics.received_unrouted.inc();
            return Err(Refusal::NoRoute(header.route));
        };
        route.received.inc();
        if let Some(seat) = route.plugin.here() {
            return self.decide(seat, session, header, &payload).map(|()| None);
        }
        if route.plugin.is_barred() {
            return Err(Refusal::Quarantined);
        }
        let (done, aside) = oneshot::channel();
        let (gateway, plugin, session) = (Arc::clone(self), Arc::clone(&route.plugin), Arc::clone(session));
        let job = move || {
            if let Err(refusal) = gateway.decide(plugin.beside(), &session, header, &payload) {
                gateway.refuse(&session, header, &refusal);
            }
            // An error means that the session has ended meanwhile.
            let _ = done.send(());
        };
        route.plugin.lane().submit(Box::new(job)).map_err(|_| Refusal::Busy)?;
        Ok(Some(aside))
    }

    fn decide(&self, seat: Seat<'_>, session: &Arc<Session>, header: Header, payload: &Bytes) -> Result<(), Refusal> {
        let plugin = seat.plugin;
        if !plugin.admits() {
            return Err(Refusal::Quarantined);
        }
        let (high, low) = session.id.as_u64_pair();
        let packet = Packet {
            seq: header.seq,
            route: header.route,
            flags: header.flags,
            session: SessionId { high, low },
            user: session.user(),
        };
        let call = Call { plugin, origin: Some((session, header)), payload };
        let valid = |decision: &Decision| self.valid(plugin, true, decision);
        self.perform(&call, seat.on_packet(packet, payload, valid))
    }

    /// Hands a message of the bus to whoever subscribes to its topic, and answers with how many those are.
    pub fn on_message(self: &Arc<Self>, topic: &str, payload: &Bytes) -> usize {
        let snapshot = self.snapshot.load();
        let subscribers = snapshot.subscribers(topic);
        for plugin in subscribers {
            if let Some(seat) = plugin.here_in_order() {
                self.hear(seat, topic, payload);
                continue;
            }
            let (gateway, heard_by) = (Arc::clone(self), Arc::clone(plugin));
            let (topic, payload) = (topic.to_owned(), payload.clone());
            let job = move || gateway.hear(heard_by.beside(), &topic, &payload);
            if plugin.lane().submit(Box::new(job)).is_err() {
                self.metrics.dropped("plugin_busy", 1);
                if self.metrics.log_limits.permit("bus message dropped", plugin.name()) {
                    tracing::warn!(
                        plugin = &**plugin.name(),
                        "bus message dropped: its plugin is slow, and too much waits for it"
                    );
                }
            }
        }
        subscribers.len()
    }

    fn hear(&self, seat: Seat<'_>, topic: &str, payload: &Bytes) {
        let plugin = seat.plugin;
        if !plugin.admits() {
            return self.metrics.dropped("plugin_quarantined", 1);
        }
        let call = Call { plugin, origin: None, payload };
        let valid = |decision: &Decision| self.valid(plugin, false, decision);
        let Err(refusal) = self.perform(&call, seat.on_message(topic, payload, valid)) else { return };
        let reason = if matches!(refusal, Refusal::Fault) { "message_fault" } else { "message_rejected" };
        self.metrics.refused(reason);
        if self.metrics.log_limits.permit("bus message refused", plugin.name()) {
            let (_, why) = refusal.answer();
            let plugin = &**plugin.name();
            let why = text::bounded(why);
            tracing::warn!(topic, bytes = payload.len(), plugin, why, "bus message refused");
        }
    }

    /// Answers a packet with the reason why it is not served.
    fn refuse(&self, session: &Arc<Session>, header: Header, refusal: &Refusal) {
        let (status, why) = refusal.answer();
        self.metrics.refused(refusal::reason(status));
        if self.metrics.log_limits.permit("packet refused", refusal::reason(status)) {
            let (session, route) = (session.id, header.route);
            let why = text::bounded(&why);
            tracing::warn!(%session, route, seq = header.seq, status, why, "packet refused");
        }
        queued(&self.metrics, session, session.outbox.reply(header.reply(status), Bytes::from(why)));
    }
}
