//! A recording proxy between the gateway and Redis.
//!
//! The proxy forwards the bytes unchanged. It records which messages Redis accepted and for how many subscribers, and
//! which messages Redis wrote to the gateway. Nothing else can tell a message that Redis lost from a message that the
//! gateway lost.

use crate::{
    journal::Journal,
    messages::{BROADCAST, Id, REQUESTS, read_delivery, read_request},
};
use bytes::{Buf, BytesMut};
use gateway_wire::resp::{self, Frame, Parsed};
use std::{collections::VecDeque, io, net::Ipv4Addr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time,
};

/// How long Redis may take to notice that a subscriber has disconnected. A paused Redis notices nothing.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// A running proxy.
pub(crate) struct RecordingProxy {
    /// The port to which the gateway connects instead of Redis's own.
    pub(crate) port: u16,
    cuts: watch::Sender<u64>,
    _accepting: JoinSet<()>,
}

impl RecordingProxy {
    pub(crate) async fn start(redis: u16, journal: Journal) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cuts = watch::Sender::new(0);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, redis, journal, cuts.clone()));
        Self { port, cuts, _accepting: accepting }
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn accept(listener: TcpListener, redis: u16, journal: Journal, cuts: watch::Sender<u64>) {
    let mut links = JoinSet::new();
    loop {
        let Ok((gateway, _)) = listener.accept().await else { continue };
        // If Redis is unreachable, the gateway's connection is closed at once.
        let Ok(redis) = TcpStream::connect((Ipv4Addr::LOCALHOST, redis)).await else { continue };
        links.spawn(carry(gateway, redis, Observer::new(journal.clone()), cuts.subscribe()));
    }
}

/// Forwards bytes in both directions until one side ends or the connection is cut.
async fn carry(mut gateway: TcpStream, mut redis: TcpStream, mut observer: Observer, mut cut: watch::Receiver<u64>) {
    let _ = (gateway.set_nodelay(true), redis.set_nodelay(true));
    let redis_ended = tokio::select! {
        redis_ended = until_one_ends(&mut gateway, &mut redis, &mut observer) => redis_ended,
        _ = cut.changed() => false,
    };
    drop(gateway);
    observer.journal.link_ended(observer.link, !redis_ended);
    if redis_ended {
        return;
    }
    // Until Redis sees the end of the connection, it counts the connection as a subscriber. Messages that Redis writes
    // to the connection meanwhile are lost, which is not the fault of the gateway.
    let _ = redis.shutdown().await;
    let mut chunk = BytesMut::new();
    let reading = async {
        while matches!(redis.read_buf(&mut chunk).await, Ok(1..)) {
            observer.answers(&chunk, false);
            chunk.clear();
        }
    };
    let _ = time::timeout(DISCONNECT_TIMEOUT, reading).await;
    observer.journal.link_noticed(observer.link);
}

/// Forwards bytes in both directions until one side ends. Returns true if Redis ended the connection, and false if the
/// gateway did.
async fn until_one_ends(gateway: &mut TcpStream, redis: &mut TcpStream, observer: &mut Observer) -> bool {
    let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
    loop {
        tokio::select! {
            read = gateway.read_buf(&mut up) => {
                if !is_some(&read) { return false }
                observer.commands(&up);
                if redis.write_all(&up).await.is_err() { return true }
                up.clear();
            }
            read = redis.read_buf(&mut down) => {
                if !is_some(&read) { return true }
                let taken = gateway.write_all(&down).await.is_ok();
                observer.answers(&down, taken);
                if !taken { return false }
                down.clear();
            }
        }
    }
}

fn is_some(read: &io::Result<usize>) -> bool {
    matches!(read, Ok(1..))
}

/// Parses and records the traffic of one connection.
struct Observer {
    journal: Journal,
    link: usize,
    commands: BytesMut,
    answers: BytesMut,
    /// The commands that Redis has not answered yet, each with the id of the message that it publishes, if any.
    unanswered: VecDeque<Option<Id>>,
}

impl Observer {
    fn new(journal: Journal) -> Self {
        let link = journal.link_opened();
        Self { journal, link, commands: BytesMut::new(), answers: BytesMut::new(), unanswered: VecDeque::new() }
    }

    fn commands(&mut self, bytes: &[u8]) {
        self.commands.extend_from_slice(bytes);
        while let Parsed::Whole(command, len) = resp::parse(&self.commands).expect("RESP") {
            match &command {
                // Redis answers these commands with a push, not with a reply.
                Frame::List(parts) if matches!(parts[..], [Frame::Text(b"SUBSCRIBE" | b"UNSUBSCRIBE"), ..]) => {}
                command => {
                    let id = published(command);
                    id.into_iter().for_each(|id| self.journal.publishing(id, self.link));
                    self.unanswered.push_back(id);
                }
            }
            drop(command);
            self.commands.advance(len);
        }
    }

    /// Records what Redis wrote. `taken` says whether the bytes could be written to the gateway.
    fn answers(&mut self, bytes: &[u8], taken: bool) {
        self.answers.extend_from_slice(bytes);
        while let Parsed::Whole(answer, len) = resp::parse(&self.answers).expect("RESP") {
            match answer {
                Frame::Push(push) => self.pushed(&push, taken),
                answer => {
                    let id = self.unanswered.pop_front().flatten();
                    if let (Some(id), Frame::Integer(receivers)) = (id, answer) {
                        self.journal.published(id, receivers);
                    }
                }
            }
            self.answers.advance(len);
        }
    }

    fn pushed(&self, push: &[Frame<'_>], taken: bool) {
        let [Frame::Text(what), Frame::Text(topic), rest] = push else { return };
        match (*what, rest) {
            _ if *topic != BROADCAST.as_bytes() => {}
            (b"message", Frame::Text(body)) => {
                read_delivery(body).into_iter().for_each(|id| self.journal.pushed(id, self.link, taken));
            }
            (b"subscribe", _) => self.journal.subscribed(self.link),
            (b"unsubscribe", _) => self.journal.unsubscribed(self.link),
            _ => {}
        }
    }
}

/// Returns the id of the message that a command publishes.
fn published(command: &Frame<'_>) -> Option<Id> {
    let Frame::List(parts) = command else { return None };
    let [Frame::Text(b"PUBLISH"), Frame::Text(topic), Frame::Text(body)] = parts[..] else { return None };
    (topic == REQUESTS.as_bytes()).then(|| read_request(body)).flatten().map(|(id, _)| id)
}
