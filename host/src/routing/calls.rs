//! The calls of plugins: what happened, and to whom.

use super::{origin::Origin, snapshot::ServingPlugin};
use crate::{
    delivery::session::Session,
    plugin::{About, Absence, Arrival, Connection, Departure, Packet, Sender, SessionId, trace},
    sync::moment::Moment,
};
use bytes::Bytes;
use gateway_wire::packet::Header;
use std::sync::Arc;
use tracing::Span;
use uuid::Uuid;

/// A call of a plugin.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) served: &'a Arc<ServingPlugin>,
    pub(super) occasion: Occasion<'a>,
}

/// What happened.
#[derive(Clone, Copy)]
pub(super) enum Occasion<'a> {
    /// A session sent a packet.
    Packet { session: &'a Arc<Session>, header: Header, payload: &'a Bytes },
    /// A message arrived on the bus. The packet that caused it may be known. An entry of a stream is never refused
    /// because the plugin is busy.
    Message { topic: &'a str, payload: &'a Bytes, cause: Option<Origin>, is_entry: bool },
    /// A client asks for a session.
    Connect { session: &'a Arc<Session>, connection: &'a Arc<Connection> },
    /// A session has ended.
    Disconnect { session: &'a Arc<Session>, departure: &'a Arc<Departure> },
    /// The client of a session is away or back.
    Presence { session: &'a Arc<Session>, news: &'a News },
    /// A timer is due.
    Wake { key: u64 },
}

/// What a plugin hears of a session's client.
#[derive(Clone, Copy)]
pub(super) enum News {
    Away(Absence),
    Back(Arrival),
}

impl<'a> Occasion<'a> {
    /// Returns the session that the call is about.
    pub(super) fn session(&self) -> Option<&'a Arc<Session>> {
        match *self {
            Self::Packet { session, .. }
            | Self::Connect { session, .. }
            | Self::Disconnect { session, .. }
            | Self::Presence { session, .. } => Some(session),
            Self::Message { .. } | Self::Wake { .. } => None,
        }
    }

    /// Returns what the call is about, for the rules of its answer.
    pub(super) fn about(&self) -> About {
        match self {
            Self::Packet { .. } => About::Packet,
            Self::Message { .. } => About::Message,
            Self::Connect { .. } | Self::Disconnect { .. } | Self::Presence { .. } => About::Session,
            Self::Wake { .. } => About::Timer,
        }
    }

    /// Returns the payload that an action without a body sends.
    pub(super) fn payload(&self) -> Option<&'a Bytes> {
        match *self {
            Self::Packet { payload, .. } | Self::Message { payload, .. } => Some(payload),
            _ => None,
        }
    }
}

/// A call that waits for the offload thread.
pub(super) struct OwnedCall {
    served: Arc<ServingPlugin>,
    occasion: OwnedOccasion,
}

enum OwnedOccasion {
    Packet { session: Arc<Session>, header: Header, payload: Bytes },
    Message { topic: String, payload: Bytes, cause: Option<Origin>, is_entry: bool },
    Connect { session: Arc<Session>, connection: Arc<Connection> },
    Disconnect { session: Arc<Session>, departure: Arc<Departure> },
    Presence { session: Arc<Session>, news: News },
    Wake { key: u64 },
}

impl News {
    fn export(&self) -> &'static str {
        match self {
            Self::Away(_) => "on-away",
            Self::Back(_) => "on-back",
        }
    }
}

impl<'a> Call<'a> {
    /// Returns the session that the call is about.
    pub(super) fn session(&self) -> Option<&'a Arc<Session>> {
        self.occasion.session()
    }

    /// Returns the header of the packet, if the call is about a packet.
    pub(super) fn header(&self) -> Option<Header> {
        if let Occasion::Packet { header, .. } = self.occasion { Some(header) } else { None }
    }

    /// Returns the payload that an action without a body sends.
    pub(super) fn payload(&self) -> Option<&'a Bytes> {
        self.occasion.payload()
    }

    /// Returns the packet that the call's publishes come from.
    pub(super) fn origin(&self) -> Option<Origin> {
        match self.occasion {
            Occasion::Packet { session, header, .. } => Some(Origin { session: session.id, header }),
            _ => None,
        }
    }

    /// Returns the sender against whom a slow or failed call counts.
    pub(super) fn sender(&self) -> Sender {
        match self.occasion {
            Occasion::Packet { session, .. } => Sender::Session(session.id),
            Occasion::Message { cause, .. } => cause.map_or(Sender::Bus, |origin| Sender::Session(origin.session)),
            Occasion::Connect { session, .. }
            | Occasion::Disconnect { session, .. }
            | Occasion::Presence { session, .. } => Sender::address(session.remote().ip()),
            Occasion::Wake { key } => Sender::Timer(key),
        }
    }

    /// Returns the number of payload bytes that the call keeps alive.
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload().map_or(0, Bytes::len)
    }

    /// Returns the span of the call for the log.
    pub(super) fn span(&self) -> Span {
        let (name, version) = (self.served.plugin.name(), self.served.plugin.version());
        match self.occasion {
            Occasion::Packet { session, header, .. } => {
                trace::on_packet(name, version, header.route, header.seq, session.id)
            }
            Occasion::Message { topic, .. } => trace::on_message(name, version, topic),
            Occasion::Connect { session, .. } => trace::on_session(name, version, "on-connect", session.id),
            Occasion::Disconnect { session, .. } => trace::on_session(name, version, "on-disconnect", session.id),
            Occasion::Presence { session, news } => trace::on_session(name, version, news.export(), session.id),
            Occasion::Wake { key } => trace::on_wake(name, version, key),
        }
    }

    /// Returns the time of a call that begins now, in milliseconds since 1970. What happens to a session keeps its time
    /// if it waits for the plugin.
    pub(super) fn time(&self, began: Moment) -> u64 {
        match self.occasion {
            Occasion::Connect { connection, .. } => connection.now,
            Occasion::Disconnect { departure, .. } => departure.now,
            Occasion::Presence { news: News::Away(Absence { now, .. }) | News::Back(Arrival { now, .. }), .. } => *now,
            _ => began.unix_ms(),
        }
    }

    /// Returns the packet as the plugin gets it. `now` is the time of the call.
    pub(super) fn packet(&self, session: &Session, header: Header, now: u64) -> Packet {
        Packet {
            seq: header.seq,
            route: header.route,
            flags: header.flags,
            session: session_id(session.id),
            user: session.user(),
            tag: session.tag(&self.served.account.owner),
            now,
        }
    }

    /// Returns a copy that can wait for the offload thread.
    pub(super) fn owned(&self) -> OwnedCall {
        let occasion = match self.occasion {
            Occasion::Packet { session, header, payload } => {
                OwnedOccasion::Packet { session: Arc::clone(session), header, payload: payload.clone() }
            }
            Occasion::Message { topic, payload, cause, is_entry } => {
                OwnedOccasion::Message { topic: topic.to_owned(), payload: payload.clone(), cause, is_entry }
            }
            Occasion::Connect { session, connection } => {
                OwnedOccasion::Connect { session: Arc::clone(session), connection: Arc::clone(connection) }
            }
            Occasion::Disconnect { session, departure } => {
                OwnedOccasion::Disconnect { session: Arc::clone(session), departure: Arc::clone(departure) }
            }
            Occasion::Presence { session, news } => {
                OwnedOccasion::Presence { session: Arc::clone(session), news: *news }
            }
            Occasion::Wake { key } => OwnedOccasion::Wake { key },
        };
        OwnedCall { served: Arc::clone(self.served), occasion }
    }
}

impl OwnedCall {
    pub(super) fn borrow(&self) -> Call<'_> {
        let occasion = match &self.occasion {
            OwnedOccasion::Packet { session, header, payload } => {
                Occasion::Packet { session, header: *header, payload }
            }
            OwnedOccasion::Message { topic, payload, cause, is_entry } => {
                Occasion::Message { topic, payload, cause: *cause, is_entry: *is_entry }
            }
            OwnedOccasion::Connect { session, connection } => Occasion::Connect { session, connection },
            OwnedOccasion::Disconnect { session, departure } => Occasion::Disconnect { session, departure },
            OwnedOccasion::Presence { session, news } => Occasion::Presence { session, news },
            OwnedOccasion::Wake { key } => Occasion::Wake { key: *key },
        };
        Call { served: &self.served, occasion }
    }
}

/// Returns a session's id in the form that plugins use.
pub(super) fn session_id(id: Uuid) -> SessionId {
    let (high, low) = id.as_u64_pair();
    SessionId { high, low }
}

/// Returns a session's id in the form that the registry uses.
pub(super) fn uuid(SessionId { high, low }: SessionId) -> Uuid {
    Uuid::from_u64_pair(high, low)
}
