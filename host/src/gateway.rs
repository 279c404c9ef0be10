//! The two ways a message travels: packet to plugin to actions, and bus message to plugin to actions.

use crate::{
    bus::{self, Publication, Publisher},
    metrics::Metrics,
    outbox::{self, Outcome},
    packet::{self, HEADER_LEN, Header, Status},
    plugin::{self, Action, Answer, Closing, Decision, Delivery, Fault, Packet, Plugin, Rejection, SessionId, Target},
    registry::{Registry, Session},
    snapshot::Snapshot,
    throttle::Throttle,
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::watch;
use uuid::Uuid;

/// Actions that one call may answer with.
const ACTIONS: usize = 1024;

/// The bytes of a rejection's text that reach the client.
const REJECTION_BYTES: usize = 1024;

/// What every session and the bus share.
pub struct Gateway {
    /// Who is here.
    pub registry: Arc<Registry>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    snapshot: ArcSwap<Snapshot>,
    topics: watch::Sender<BTreeSet<String>>,
    bus: Publisher<Origin>,
    max_message_bytes: usize,
    refusals: Throttle,
    faults: Throttle,
}

/// The packet that a publish came from, to be answered if the bus does not take it.
#[derive(Debug)]
pub struct Origin {
    session: Arc<Session>,
    header: Header,
}

impl bus::Origin for Origin {
    fn refused(&self, why: &'static str) {
        self.session.outbox.reply(self.header.reply(Status::Unavailable as u16), Bytes::from_static(why.as_bytes()));
    }
}

/// What a call was made with.
struct Call<'a> {
    plugin: &'a Plugin,
    origin: Option<(&'a Arc<Session>, Header)>,
    payload: &'a Bytes,
}

/// Why a packet or a message is not served.
enum Refusal {
    Rejected(Rejection),
    Fault,
    BoundToAnother,
    NoRoute(u8),
    BusFull,
}

impl Gateway {
    /// A gateway that serves no route yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, bus: Publisher<Origin>, max_message_bytes: usize) -> Self {
        Self {
            registry: Arc::default(),
            snapshot: ArcSwap::from_pointee(Snapshot::new(Vec::new(), &metrics)),
            metrics,
            topics: watch::Sender::default(),
            bus,
            max_message_bytes,
            refusals: Throttle::new(),
            faults: Throttle::new(),
        }
    }

    /// Puts other plugins to use, from the next packet and the next message on.
    pub fn install(&self, snapshot: Snapshot) {
        let topics = snapshot.topics();
        self.snapshot.store(Arc::new(snapshot));
        self.topics.send_if_modified(|current| {
            let changed = *current != topics;
            *current = topics;
            changed
        });
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

    /// Serves one packet, or answers it with the reason why not.
    pub fn on_packet(&self, session: &Arc<Session>, packet: Bytes) {
        let (header, payload) = match packet::parse(packet) {
            Ok(parts) => parts,
            Err(error) => {
                let rejection = Rejection { status: Status::MalformedPacket as u16, message: error.to_string() };
                return self.refuse(session, Header::default(), Refusal::Rejected(rejection));
            }
        };
        if let Err(refusal) = self.route(session, header, &payload) {
            self.refuse(session, header, refusal);
        }
    }

    fn route(&self, session: &Arc<Session>, header: Header, payload: &Bytes) -> Result<(), Refusal> {
        let snapshot = self.snapshot.load();
        let Some(route) = snapshot.route(header.route) else {
            self.metrics.received_unrouted.inc();
            return Err(Refusal::NoRoute(header.route));
        };
        route.received.inc();
        let (high, low) = session.id.as_u64_pair();
        let packet = Packet {
            seq: header.seq,
            route: header.route,
            flags: header.flags,
            session: SessionId { high, low },
            user: session.user(),
        };
        let call = Call { plugin: &route.plugin, origin: Some((session, header)), payload };
        self.perform(&call, call.plugin.on_packet(packet, payload))
    }

    /// Hands a message of the bus to whoever subscribes to its topic, and answers with how many those are.
    pub fn on_message(&self, topic: &str, payload: &Bytes) -> usize {
        let snapshot = self.snapshot.load();
        let subscribers = snapshot.subscribers(topic);
        for plugin in subscribers {
            let call = Call { plugin, origin: None, payload };
            let Err(refusal) = self.perform(&call, plugin.on_message(topic, payload)) else { continue };
            let reason = if matches!(refusal, Refusal::Fault) { "message_fault" } else { "message_rejected" };
            self.metrics.refused(reason);
            if let Some(held_back) = self.refusals.permit() {
                let (_, why) = refusal.answer();
                let plugin = &**plugin.name();
                tracing::warn!(topic, bytes = payload.len(), plugin, why, held_back, "bus message refused");
            }
        }
        subscribers.len()
    }

    /// Carries the actions of a call out: all of them or none.
    fn perform(&self, call: &Call<'_>, decision: Result<Decision, Fault>) -> Result<(), Refusal> {
        let actions = match decision {
            Ok(Ok(actions)) => actions,
            Ok(Err(rejection)) => return Err(self.rejected(call, rejection)),
            Err(fault) => return Err(self.fault(call, &fault)),
        };
        self.check(call, &actions)?;
        let publishes = actions.iter().filter(|action| matches!(action, Action::Publish(_))).count();
        let mut permits = self.bus.reserve(publishes).ok_or(Refusal::BusFull)?;
        for action in actions {
            match (action, call.origin) {
                (Action::Publish(publication), _) => {
                    let body = publication.body.map_or_else(|| call.payload.clone(), Bytes::from);
                    let origin = call.origin.map(|(session, header)| Origin { session: Arc::clone(session), header });
                    permits.publish(Publication { topic: publication.topic, body, origin });
                }
                (Action::Deliver(delivery), _) => self.deliver(delivery, call.payload),
                (Action::Bind(user), Some((session, _))) => {
                    self.registry.bind(session, user).map_err(|_| Refusal::BoundToAnother)?;
                }
                (Action::Reply(Answer { status, body }), Some((session, header))) => {
                    self.queued(session, session.outbox.reply(header.reply(status), body.into()));
                }
                (Action::Echo, Some((session, header))) => {
                    self.queued(session, session.outbox.reply(header.reply(0), call.payload.clone()));
                }
                (Action::Close(Closing { code, reason }), Some((session, _))) => {
                    session.outbox.close(outbox::Closing { code, reason, cause: "policy" });
                }
                (_, None) => {}
            }
        }
        Ok(())
    }

    /// Looks at every action before the first is carried out.
    fn check(&self, call: &Call<'_>, actions: &[Action]) -> Result<(), Refusal> {
        let invalid = |why: String| Err(self.fault(call, &Fault::Answer(why)));
        if actions.len() > ACTIONS {
            return invalid(format!("it answered with {} actions, and {ACTIONS} are the most", actions.len()));
        }
        let most = self.max_message_bytes - HEADER_LEN;
        let mut user = call.origin.and_then(|(session, _)| session.user());
        for action in actions {
            let body = match action {
                Action::Publish(publication) => &publication.body,
                Action::Deliver(delivery) => &delivery.body,
                Action::Reply(Answer { body, .. }) if body.len() > most => {
                    return invalid(format!(
                        "its reply has {} bytes, and {most} are the most (`max_message_bytes`)",
                        body.len()
                    ));
                }
                _ => &None,
            };
            if body.as_ref().is_some_and(|body| body.len() > most) {
                return invalid(format!("its message is over {most} bytes, the most (`max_message_bytes`)"));
            }
            match action {
                Action::Publish(publication) if !plugin::is_topic(&publication.topic) => {
                    return invalid(format!("it publishes on {:?}, and {}", publication.topic, plugin::TOPIC_RULE));
                }
                Action::Publish(_) | Action::Deliver(_) => {}
                _ if call.origin.is_none() => {
                    return invalid("only a packet can be answered with that action".to_owned());
                }
                Action::Bind(wanted) if *user.get_or_insert(*wanted) != *wanted => return Err(Refusal::BoundToAnother),
                Action::Reply(Answer { status: status @ 9..256, .. }) => {
                    return invalid(format!("its reply has status {status}, and 9 to 255 are reserved"));
                }
                Action::Close(Closing { code, reason })
                    if !matches!(code, 1000 | 3000..=4999) || reason.len() > 123 =>
                {
                    return invalid(format!(
                        "it closes with {code} and {} bytes of reason; 1000 and 3000 to 4999, and 123 bytes, are allowed",
                        reason.len()
                    ));
                }
                Action::Bind(_) | Action::Reply(_) | Action::Echo | Action::Close(_) => {}
            }
        }
        Ok(())
    }

    fn deliver(&self, delivery: Delivery, payload: &Bytes) {
        let body = delivery.body.map_or_else(|| payload.clone(), Bytes::from);
        let push = |session: &Arc<Session>| self.queued(session, session.outbox.push(delivery.route, body.clone()));
        let here = match delivery.to {
            Target::User(user) => self.registry.each_of_user(user, push),
            Target::Session(SessionId { high, low }) => {
                self.registry.session(Uuid::from_u64_pair(high, low)).as_ref().map(push).is_some()
            }
        };
        if here { &self.metrics.delivered } else { &self.metrics.undelivered }.inc();
    }

    fn queued(&self, session: &Session, outcome: Outcome) {
        match outcome {
            Outcome::Queued => {}
            Outcome::Full { warn } => {
                self.metrics.dropped("send_queue_full", 1);
                if warn {
                    let (session, remote) = (session.id, session.remote);
                    tracing::warn!(%session, %remote, "send queue full: the client reads too slowly, messages are dropped");
                }
            }
            Outcome::Closed => self.metrics.dropped("session_closing", 1),
        }
    }

    fn rejected(&self, call: &Call<'_>, mut rejection: Rejection) -> Refusal {
        if matches!(rejection.status, 0 | 9..256) {
            let why = format!("it rejected with status {}, which is no rejection", rejection.status);
            return self.fault(call, &Fault::Answer(why));
        }
        rejection.message.truncate(rejection.message.floor_char_boundary(REJECTION_BYTES));
        Refusal::Rejected(rejection)
    }

    fn fault(&self, call: &Call<'_>, fault: &Fault) -> Refusal {
        if matches!(fault, Fault::Answer(_)) {
            call.plugin.invalid();
        }
        if let Some(held_back) = self.faults.permit() {
            let plugin = &**call.plugin.name();
            tracing::error!(plugin, version = call.plugin.version(), held_back, "plugin call failed: {fault}");
        }
        Refusal::Fault
    }

    /// Answers a packet with the reason why it is not served.
    fn refuse(&self, session: &Arc<Session>, header: Header, refusal: Refusal) {
        let (status, why) = refusal.answer();
        self.metrics.refused(reason(status));
        if let Some(held_back) = self.refusals.permit() {
            let (session, route) = (session.id, header.route);
            tracing::warn!(%session, route, seq = header.seq, status, why, held_back, "packet refused");
        }
        self.queued(session, session.outbox.reply(header.reply(status), Bytes::from(why)));
    }
}

impl Refusal {
    /// What the client is told: a status and a text.
    fn answer(&self) -> (u16, String) {
        let (status, why) = match self {
            Self::Rejected(rejection) => return (rejection.status, rejection.message.clone()),
            Self::Fault => (Status::Internal, "the plugin failed".to_owned()),
            Self::BoundToAnother => (Status::Forbidden, "the session is bound to another user".to_owned()),
            Self::NoRoute(route) => (Status::NoRoute, format!("no plugin serves route 0x{route:02x}")),
            Self::BusFull => (Status::Unavailable, "the bus is away or too slow".to_owned()),
        };
        (status as u16, why)
    }
}

/// The label of `gateway_routing_errors_total`.
fn reason(status: u16) -> &'static str {
    match status {
        1 => "malformed_packet",
        2 => "malformed_payload",
        3 => "no_route",
        4 => "rejected",
        5 => "unavailable",
        6 => "forbidden",
        7 => "too_many_requests",
        8 => "internal",
        _ => "custom",
    }
}
