//! The tasks of a run: one reads what each session sends, others what Redis sends, and some write what had to wait.

use std::future::pending;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::bus::Subscriber;
use super::frame::Scanner;
use super::session;
use super::socket::Reader;
use super::traffic::{Ear, Traffic};

/// None of these tasks ends by itself: what ends one is the failure of the run.
#[derive(Default)]
pub(super) struct Tasks {
    sessions: JoinSet<anyhow::Error>,
    others: JoinSet<anyhow::Error>,
}

impl Tasks {
    /// For each client of `traffic`, the reader of its session.
    pub(super) fn listen(&mut self, traffic: &Arc<Traffic>, readers: Vec<Reader>) {
        for (index, reader) in readers.into_iter().enumerate() {
            let (hearing, writing) = (Arc::clone(traffic), Arc::clone(traffic));
            self.sessions.spawn(async move {
                let (mut scanner, mut out) = (Scanner::default(), Vec::new());
                reader.read(|piece| hearing.hear(index, &mut scanner, piece, &mut out)).await.context("a session")
            });
            self.others.spawn(async move { writing.clients[index].outlet.drain().await });
        }
    }

    /// The publisher's end is noticed; what it has to publish is written.
    pub(super) fn publish(&mut self, traffic: &Arc<Traffic>, reader: Reader) {
        let writing = Arc::clone(traffic);
        self.others.spawn(async move { reader.read(|_| Ok(())).await.context("the publishing connection to Redis") });
        self.others.spawn(async move {
            match &writing.publisher {
                Some(publisher) => publisher.drain().await,
                None => pending().await,
            }
        });
    }

    /// What the gateway publishes is taken.
    pub(super) fn subscribe(&mut self, traffic: &Arc<Traffic>, subscriber: Subscriber) {
        let traffic = Arc::clone(traffic);
        self.others.spawn(async move {
            let Subscriber { reader, write: _open } = subscriber;
            let mut ear = Ear::default();
            reader.read(|piece| traffic.overhear(&mut ear, piece)).await.context("the subscription at Redis")
        });
    }

    /// Why the run cannot go on.
    pub(super) async fn failure(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            Some(ended) = self.sessions.join_next() => ended,
            Some(ended) = self.others.join_next() => ended,
            else => return pending().await,
        };
        // Else a panic, which goes on here.
        ended.unwrap_or_else(anyhow::Error::from)
    }

    /// Ends the sessions with code 1000.
    pub(super) async fn close(mut self, traffic: &Traffic) {
        session::close_all(traffic.clients.iter().map(|client| &client.outlet), &mut self.sessions).await;
    }
}
