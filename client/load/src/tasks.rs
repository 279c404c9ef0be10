//! The tasks of a run. Some read from the sessions and from Redis, others write the bytes that had to wait.

use std::future::pending;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::bus::Subscriber;
use crate::frame::Scanner;
use crate::session;
use crate::socket::Reader;
use crate::traffic::{Ear, Traffic};

/// The tasks of a run. If one of them ends, the run has failed.
#[derive(Default)]
pub(crate) struct Tasks {
    sessions: JoinSet<anyhow::Error>,
    others: JoinSet<anyhow::Error>,
}

impl Tasks {
    /// Reads from the session of each client, and writes the bytes that wait for it. The readers are in the order of
    /// the clients.
    pub(crate) fn listen(&mut self, traffic: &Arc<Traffic>, readers: Vec<Reader>) {
        for (index, reader) in readers.into_iter().enumerate() {
            let (hearing, writing) = (Arc::clone(traffic), Arc::clone(traffic));
            self.sessions.spawn(async move {
                let (mut scanner, mut out) = (Scanner::default(), Vec::new());
                reader.read(|piece| hearing.hear(index, &mut scanner, piece, &mut out)).await.context("a session")
            });
            self.others.spawn(async move { writing.clients[index].outlet.drain().await });
        }
    }

    /// Writes the publishes that wait, and notices the end of the publishing connection.
    pub(crate) fn publish(&mut self, traffic: &Arc<Traffic>, reader: Reader) {
        self.others.spawn(async move { reader.read(|_| Ok(())).await.context("the publishing connection to Redis") });
        self.drain_publisher(traffic);
    }

    /// Writes the packets that wait to be sent to all others, and reads from the session of their sender.
    pub(crate) fn relay(&mut self, traffic: &Arc<Traffic>, reader: Reader) {
        let hearing = Arc::clone(traffic);
        self.sessions.spawn(async move {
            let mut scanner = Scanner::default();
            reader.read(|piece| hearing.answer(&mut scanner, piece)).await.context("the session of the sender")
        });
        self.drain_publisher(traffic);
    }

    fn drain_publisher(&mut self, traffic: &Arc<Traffic>) {
        let writing = Arc::clone(traffic);
        self.others.spawn(async move {
            match &writing.publisher {
                Some(publisher) => publisher.drain().await,
                None => pending().await,
            }
        });
    }

    /// Reads the messages that the gateway publishes.
    pub(crate) fn subscribe(&mut self, traffic: &Arc<Traffic>, subscriber: Subscriber) {
        let traffic = Arc::clone(traffic);
        self.others.spawn(async move {
            let Subscriber { reader, write: _open } = subscriber;
            let mut ear = Ear::default();
            reader.read(|piece| traffic.overhear(&mut ear, piece)).await.context("the subscription at Redis")
        });
    }

    /// Waits until a task ends, and returns the reason.
    pub(crate) async fn failure(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            Some(ended) = self.sessions.join_next() => ended,
            Some(ended) = self.others.join_next() => ended,
            else => return pending().await,
        };
        // A task that panicked is a failure like any other.
        ended.unwrap_or_else(anyhow::Error::from)
    }

    /// Closes the sessions with code 1000.
    pub(crate) async fn close(mut self, traffic: &Traffic) {
        session::close_all(traffic.sessions(), &mut self.sessions).await;
    }
}
