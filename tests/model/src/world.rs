//! The state of the model: Redis, two gateways, one client, and a backend that publishes to its session.

use crate::{
    line::Line,
    outbox::{Client, Moving, Outbox, Pushes},
};

/// The maximum number of connections of the client. The first one is open at the beginning.
pub const CONNECTIONS: usize = 3;

/// Everything that there is.
#[derive(Clone, Debug, Hash)]
pub struct World {
    /// The gateways.
    pub gateways: [Gateway; 2],
    /// The connections of the client. A session that comes to a gateway over one, and a hand-over, have its index.
    pub connections: [Connection; CONNECTIONS],
    /// The number of connections so far.
    pub begun: u8,
    /// The client.
    pub player: Player,
    /// The messages of sessions on their way, by hand-over.
    pub moving: [Option<Moving>; CONNECTIONS],
    /// The number of messages that the backend has published.
    pub published: u8,
    /// The number of crashes so far.
    pub crashes: u8,
    /// The number of gaps so far.
    pub gaps: u8,
}

/// A message of the bus. The number of a message of a hand-over is that of its connection.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub enum Message {
    /// A message of the backend.
    Push(u8),
    /// To the old gateway: a client wants its session.
    Want(u8),
    /// To the new gateway: the client gets a new session.
    Refusal(u8),
    /// To the new gateway: what the session is.
    Offer(u8),
    /// To both.
    Mark(u8),
    /// To the new gateway: the messages of the session.
    State(u8),
    /// From Redis, after a break: all topics are subscribed to again.
    #[default]
    Complete,
}

/// A topic, as one gateway sees it.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Topic {
    /// Its own topic.
    Own,
    /// The topic of the session.
    Session,
    /// The topic of the other gateway.
    Other,
}

/// All topics.
pub const TOPICS: [Topic; 3] = [Topic::Own, Topic::Session, Topic::Other];

/// Whether a gateway hears a topic.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub enum Subscription {
    /// It does not.
    #[default]
    No,
    /// Redis has yet to carry out the command.
    Sent,
    /// It does.
    Yes,
}

/// Whether a gateway has lost its subscriptions.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub enum Sight {
    /// It hears everything.
    #[default]
    Clear,
    /// It subscribes to its topics again. Until it has, it publishes nothing.
    Blind,
    /// Redis has carried out the subscriptions, and the gateway has yet to tell its sessions.
    Untold,
}

/// A gateway.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub struct Gateway {
    /// The number of its crashes. The id of a gateway differs with each start.
    pub starts: u8,
    /// What it has sent to Redis, the oldest first.
    pub sent: Line<Message, 8>,
    /// What Redis has sent to it, the oldest first.
    pub inbox: Line<Message, 12>,
    /// Its subscriptions, in the order of [`TOPICS`].
    pub subscriptions: [Subscription; 3],
    /// Whether it has lost them.
    pub sight: Sight,
    /// The sessions, by the connection over which they came to this gateway.
    pub sessions: [Option<Session>; CONNECTIONS],
    /// The session that the registry finds by its id.
    pub found: Option<u8>,
    /// The hand-overs to the other gateway.
    pub leaving: [Leaving; CONNECTIONS],
}

/// A session at a gateway. All have the same id and the same user.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Session {
    /// Its outbox.
    pub outbox: Outbox,
    /// The connection that its task serves.
    pub connection: Option<u8>,
    /// The connection that waits for its task.
    pub arrival: Option<u8>,
    /// Whether it is registered, so that it holds an interest in its topic.
    pub is_registered: bool,
    /// Whether the registry finds it by its user.
    pub is_listed: bool,
}

/// A hand-over at the old gateway.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub enum Leaving {
    /// There is none.
    #[default]
    No,
    /// A task is about to claim the session.
    Asked,
    /// The session is claimed and has to leave its old connection.
    Claimed(u8),
    /// It was offered.
    Offered(u8),
    /// Its state was sent. Only a mistake keeps it.
    Sent(u8),
}

/// How far a connection is, at its gateway.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub enum Phase {
    /// There is none, or it is closed.
    #[default]
    Closed,
    /// Its request waits.
    Asking,
    /// The gateway waits for the offer.
    Wanted,
    /// It waits for the mark.
    Offered,
    /// It waits for the state.
    Marked,
    /// The session has come from the other gateway, and the connection is upgraded.
    Arrived,
    /// A session of this gateway is claimed, and the connection is upgraded.
    Claimed(u8),
    /// It waits for the task of the session.
    Given,
    /// The session has it.
    Open,
    /// It has a new session.
    New,
}

/// A connection of the client.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub struct Connection {
    /// The gateway.
    pub gateway: u8,
    /// The start of the gateway.
    pub start: u8,
    /// How far it is.
    pub phase: Phase,
    /// The connection that the client got its token over.
    pub token: u8,
    /// The last push that the client had received.
    pub seen: u8,
    /// Whether the client has it, too.
    pub is_there: bool,
    /// Whether the mark of its hand-over waits for the subscriptions. It is published even if nobody waits for it.
    pub is_mark_held: bool,
    /// Whether a welcome is on its way.
    pub is_welcome_due: bool,
    /// Whether the client has received the welcome.
    pub is_welcomed: bool,
    /// Whether the client got its session over it.
    pub is_resumed: bool,
    /// The packets on their way to the client.
    pub packets: Pushes,
}

/// What the client knows.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub struct Player {
    /// The connection that it got its token over.
    pub token: u8,
    /// The delivery number of the last push.
    pub seen: u8,
    /// The last message of the backend.
    pub content: u8,
    /// Whether a message of the backend was left out.
    pub misses: bool,
    /// Whether it was told that messages may be lost.
    pub knows_gap: bool,
    /// Whether it was told that its session is new.
    pub is_new: bool,
    /// Whether it has received a number or a message that it should not have received.
    pub is_confused: bool,
}

impl World {
    /// Returns the state in which the client has a session at the first gateway.
    #[must_use]
    pub fn new() -> Self {
        let outbox = Outbox::new(Client::Here(0));
        let first = Session { outbox, connection: Some(0), arrival: None, is_registered: true, is_listed: true };
        let yes = Subscription::Yes;
        let mut old = Gateway { found: Some(0), subscriptions: [yes, yes, Subscription::No], ..Gateway::default() };
        old.sessions[0] = Some(first);
        let new = Gateway { subscriptions: [yes, Subscription::No, Subscription::No], ..Gateway::default() };
        let mut connections = [Connection::default(); CONNECTIONS];
        connections[0] = Connection { phase: Phase::Open, is_there: true, is_welcomed: true, ..Connection::default() };
        Self {
            gateways: [old, new],
            connections,
            begun: 1,
            player: Player::default(),
            moving: [None; CONNECTIONS],
            published: 0,
            crashes: 0,
            gaps: 0,
        }
    }

    /// Returns the gateway that has the session for which a connection has a token.
    #[must_use]
    pub fn source(&self, connection: u8) -> u8 {
        self.granter(connection).gateway
    }

    /// Returns whether the gateway that has granted the token of a connection has crashed since.
    #[must_use]
    pub fn is_source_gone(&self, connection: u8) -> bool {
        let granter = self.granter(connection);
        self.gateways[granter.gateway as usize].starts != granter.start
    }

    fn granter(&self, connection: u8) -> &Connection {
        &self.connections[self.connections[connection as usize].token as usize]
    }

    /// Returns all sessions with their gateways and indices.
    pub fn sessions(&self) -> impl Iterator<Item = (u8, u8, &Session)> {
        (0..).zip(&self.gateways).flat_map(|(gateway, it)| {
            (0..).zip(&it.sessions).filter_map(move |(index, session)| Some((gateway, index, session.as_ref()?)))
        })
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}
