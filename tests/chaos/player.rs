//! A well-behaved player that counts its messages. It sends heartbeats and chat requests, reads everything that
//! arrives, and connects again whenever its connection ends.

use crate::{
    journal::{End, Journal, Kind},
    messages::{Id, read_delivery, request},
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use gateway_proto::Welcome;
use gateway_tests::{Client, PATIENCE, header, wire};
use gateway_wire::packet::{self, ROUTE_CHAT, ROUTE_CONTROL, ROUTE_SYSTEM};
use prost::Message as _;
use std::{collections::HashMap, net::SocketAddr, time::Duration};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    time::{self, MissedTickBehavior},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message},
};

/// The time between two messages of a player. Heartbeats and chat requests alternate.
const PERIOD: Duration = Duration::from_millis(25);
/// How long a player waits before it tries to connect again.
const RECONNECT: Duration = Duration::from_millis(200);

/// How a player disconnects when the plan says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// A TCP reset, even while messages are in flight.
    Reset,
    /// A close frame in the same write as a last heartbeat.
    Close,
}

/// What all players do at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The players send and read.
    Play,
    /// The players only read, so that messages in flight can arrive.
    Listen,
    /// The players disconnect.
    Done,
}

/// Plays until the phase is [`Phase::Done`].
pub(crate) async fn play(
    gateway: SocketAddr,
    user: i32,
    journal: Journal,
    mut phase: watch::Receiver<Phase>,
    mut orders: mpsc::Receiver<Leave>,
) {
    while *phase.borrow() != Phase::Done {
        let Some((socket, welcome)) = connect(gateway).await else {
            time::sleep(RECONNECT).await;
            continue;
        };
        let session = journal.opened(user);
        let visit = PlayerSession {
            socket,
            session,
            session_id: welcome.session_id,
            user,
            journal: &journal,
            seq: 0,
            unanswered: HashMap::new(),
        };
        if let Some(end) = visit.run(&mut phase, &mut orders).await {
            journal.ended(session, end);
        }
    }
}

/// Opens a session and reads its welcome. Returns `None` if that fails, for example because the gateway has no
/// descriptor left.
async fn connect(gateway: SocketAddr) -> Option<(WebSocketStream<TcpStream>, Welcome)> {
    let connecting = async {
        let mut socket = Client::handshake(gateway, "/ws").await.ok()?;
        let first = socket.next().await?.ok()?.into_data();
        Some((socket, Welcome::decode(first.slice(8..)).ok()?))
    };
    time::timeout(Duration::from_secs(5), connecting).await.ok()?
}

/// One session.
struct PlayerSession<'a> {
    socket: WebSocketStream<TcpStream>,
    session: usize,
    session_id: String,
    user: i32,
    journal: &'a Journal,
    seq: u32,
    /// The sent messages, by seq.
    unanswered: HashMap<u32, Id>,
}

impl PlayerSession<'_> {
    /// Plays the session. Returns how the session ended, or `None` if it lasted until the end of the run.
    async fn run(mut self, phase: &mut watch::Receiver<Phase>, orders: &mut mpsc::Receiver<Leave>) -> Option<End> {
        let mut ticks = time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = *phase.borrow_and_update();
            if now == Phase::Done {
                return None;
            }
            tokio::select! {
                Some(leave) = orders.recv() => return Some(self.leave(leave).await),
                message = self.socket.next() => if let Some(end) = self.take(message) { return Some(end) },
                _ = ticks.tick(), if now == Phase::Play => {
                    let packet = self.packet();
                    // An error is ignored here: the reading side sees the same error, after the close frame.
                    let _ = time::timeout(PATIENCE, self.socket.send(Message::Binary(packet))).await;
                }
                _ = phase.changed() => {}
            }
        }
    }

    /// Returns the next packet. Heartbeats and chat requests alternate.
    fn packet(&mut self) -> Bytes {
        self.seq += 1;
        let (route, kind) =
            if self.seq.is_multiple_of(2) { (ROUTE_SYSTEM, Kind::Heartbeat) } else { (ROUTE_CHAT, Kind::Request) };
        let id = self.journal.send(kind, Some(self.session), self.user);
        self.unanswered.insert(self.seq, id);
        let payload = match kind {
            Kind::Heartbeat => id.to_be_bytes().to_vec(),
            _ => request(id, self.user, &self.session_id),
        };
        [header(self.seq, route), payload].concat().into()
    }

    /// Handles a received message. Returns how the session ended, if it did.
    fn take(&mut self, message: Option<Result<Message, Error>>) -> Option<End> {
        match message {
            Some(Ok(Message::Binary(packet))) => self.on_packet(&packet),
            Some(Ok(Message::Close(Some(frame)))) => {
                return Some(End::Announced(frame.code.into(), frame.reason.to_string()));
            }
            Some(Ok(Message::Close(None))) => return Some(End::Announced(1005, String::new())),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Some(End::Unannounced(error.to_string())),
            None => return Some(End::Unannounced("the stream ended".to_owned())),
        }
        None
    }

    fn on_packet(&mut self, packet: &Bytes) {
        let (header, payload) = packet::split(packet).unwrap();
        if header.route == ROUTE_CONTROL {
            // A push of the gateway itself is no delivery.
            return;
        }
        if !header.is_reply() {
            return self.journal.delivered(read_delivery(payload), self.session, header.seq);
        }
        // A reply with an unknown seq is ignored here: the message that it should have answered stays unanswered in the
        // ledger. Entries are never removed from the map, so a second reply to a message is recorded as well.
        let Some(id) = self.unanswered.get(&header.seq).copied() else { return };
        match (header.route, header.status) {
            (ROUTE_SYSTEM, 0) if payload == id.to_be_bytes() => self.journal.echoed(id, self.session),
            (_, 0) => self.journal.refused(id, 0, "a reply that nobody expects"),
            _ => self.journal.refused(id, header.status, &String::from_utf8_lossy(payload)),
        }
    }

    async fn leave(&mut self, how: Leave) -> End {
        if how == Leave::Reset {
            wire::reset(self.socket.get_ref());
            return End::Reset;
        }
        let last = self.packet();
        let _ = self.socket.feed(Message::Binary(last)).await;
        let _ = self.socket.close(None).await;
        loop {
            let Ok(message) = time::timeout(PATIENCE, self.socket.next()).await else {
                return End::Unannounced("no close frame came back".to_owned());
            };
            match self.take(message) {
                Some(End::Announced(..)) => return End::Closed,
                Some(end) => return end,
                None => {}
            }
        }
    }
}
