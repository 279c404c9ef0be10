//! A tap on the wire between the gateway and Redis. It carries bytes as they are, and notes which message Redis took, for how many
//! subscribers, and which it wrote to the gateway: the only way to tell what Redis lost from what the gateway lost.

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

/// How long Redis may take to see that a subscriber has gone. A paused Redis sees nothing.
const FAREWELL: Duration = Duration::from_secs(20);

/// A running tap.
pub(crate) struct Tap {
    /// Where the gateway connects instead of to Redis.
    pub(crate) port: u16,
    cuts: watch::Sender<u64>,
    _accepting: JoinSet<()>,
}

impl Tap {
    pub(crate) async fn start(redis: u16, journal: Journal) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cuts = watch::Sender::new(0);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, redis, journal, cuts.clone()));
        Self { port, cuts, _accepting: accepting }
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn accept(listener: TcpListener, redis: u16, journal: Journal, cuts: watch::Sender<u64>) {
    let mut links = JoinSet::new();
    loop {
        let Ok((gateway, _)) = listener.accept().await else { continue };
        // With Redis away the gateway's connection is closed at once.
        let Ok(redis) = TcpStream::connect((Ipv4Addr::LOCALHOST, redis)).await else { continue };
        links.spawn(carry(gateway, redis, Observer::new(journal.clone()), cuts.subscribe()));
    }
}

/// Carries both directions until one side ends.
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
    // Until Redis sees the end, it counts this connection as a subscriber. What it writes here is lost, and not by the gateway.
    let _ = redis.shutdown().await;
    let mut chunk = BytesMut::new();
    let reading = async {
        while matches!(redis.read_buf(&mut chunk).await, Ok(1..)) {
            observer.answers(&chunk, false);
            chunk.clear();
        }
    };
    let _ = time::timeout(FAREWELL, reading).await;
    observer.journal.link_noticed(observer.link);
}

/// True if Redis ended the connection, false if the gateway did.
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

/// Reads what passes on one connection.
struct Observer {
    journal: Journal,
    link: usize,
    commands: BytesMut,
    answers: BytesMut,
    /// Commands that Redis has not answered, each with the id of the message that it publishes.
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
                // What these are answered with is a push.
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

    /// `taken`: whether the bytes could be handed to the gateway.
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

/// The message that a command publishes.
fn published(command: &Frame<'_>) -> Option<Id> {
    let Frame::List(parts) = command else { return None };
    let [Frame::Text(b"PUBLISH"), Frame::Text(topic), Frame::Text(body)] = parts[..] else { return None };
    (topic == REQUESTS.as_bytes()).then(|| read_request(body)).flatten().map(|(id, _)| id)
}
