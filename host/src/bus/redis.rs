//! Redis: one connection to publish and one to subscribe, each connected anew whenever it breaks.
//!
//! Not a client library's connections: all that waits is one write, what comes back is read in place, and the subscriber's messages are
//! handled where they are read. No queue stands between, so a slow policy makes Redis wait instead of growing this process's memory.
//!
//! A publish that was under way when the connection broke may or may not have reached Redis. It is not sent again, since a doubled
//! message is worse than an honest refusal: its sender is told.

mod connection;
mod resp;

use super::{
    Direction, Handler, Health, Intake,
    backoff::Backoff,
    batch::{Batch, Publication, Publications},
};
use crate::config;
use bytes::Bytes;
use connection::{Connection, LinkError};
use resp::Frame;
use std::{collections::BTreeSet, convert::Infallible, iter, sync::Arc, time::Duration};
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

/// How long publishes wait for a connection that broke, before they are refused; until it is back, later ones are refused at once.
const GRACE: Duration = Duration::from_secs(5);
/// How often a silent connection is tried.
const PING: Duration = Duration::from_secs(5);

/// Runs both directions until `stop`.
pub(super) async fn run<H: Handler>(
    config: config::Redis,
    intake: &Intake<H>,
    topics: watch::Receiver<BTreeSet<String>>,
    health: Arc<Health>,
    stop: CancellationToken,
) {
    let link = |direction| Link { config: config.clone(), health: Arc::clone(&health), direction };
    let subscribing = subscribe(link(Direction::Subscribe), topics, intake);
    tokio::select! {
        () = publish(link(Direction::Publish), intake, stop) => {}
        () = subscribing => {}
    }
}

/// One direction's way to Redis.
struct Link {
    config: config::Redis,
    health: Arc<Health>,
    direction: Direction,
}

impl Link {
    /// Tries until it is connected.
    async fn connect(&self) -> Connection {
        let mut backoff = Backoff::new();
        loop {
            match Connection::open(&self.config).await {
                Ok(connection) => return connection,
                Err(error) => self.down(&error),
            }
            time::sleep(backoff.pause()).await;
        }
    }

    fn up(&self) {
        tracing::info!(redis = self.config.shown(), direction = ?self.direction, "bus connected");
        self.health.set(self.direction, None);
    }

    fn down(&self, error: &LinkError) {
        let redis = self.config.shown();
        tracing::warn!(redis, direction = ?self.direction, %error, "bus not connected, trying again");
        self.health.set(self.direction, Some(format!("redis {redis}: {error}")));
    }
}

async fn publish<H: Handler>(link: Link, intake: &Intake<H>, stop: CancellationToken) {
    loop {
        intake.queue.set_away(true);
        let connection = tokio::select! {
            connection = link.connect() => connection,
            () = refuse_late(intake) => return,
            () = stop.cancelled() => {
                intake.queue.close();
                return refuse(intake).await;
            }
        };
        intake.queue.set_away(false);
        link.up();
        match forward(connection, intake, &stop).await {
            Ok(()) => return,
            Err(error) => link.down(&error),
        }
    }
}

/// Lets publishes wait for a while, then refuses them until it is dropped. Ends when the queue is closed.
async fn refuse_late<H: Handler>(intake: &Intake<H>) {
    time::sleep(GRACE).await;
    refuse(intake).await;
}

/// Refuses what is queued, until the queue is closed and empty.
async fn refuse<H: Handler>(intake: &Intake<H>) {
    let mut batch = Batch::default();
    loop {
        intake.queue.take(&mut batch).await;
        if batch.is_empty() {
            return;
        }
        batch.iter().for_each(|publication| intake.refuse(&publication, "the bus is away"));
        // Under load there is always more, and others of this task have to see to the connection.
        tokio::task::yield_now().await;
    }
}

/// Publishes what is queued, all that is there at once, until the connection breaks or the queue is closed and empty.
async fn forward<H: Handler>(
    mut connection: Connection,
    intake: &Intake<H>,
    stop: &CancellationToken,
) -> Result<(), LinkError> {
    let mut batch = Batch::default();
    loop {
        tokio::select! {
            biased;
            // Before anything is taken: what waits for the next connection is not lost with this one.
            heard = connection.frames(|_| {}) => {
                heard?;
                continue;
            }
            () = stop.cancelled(), if !intake.queue.is_closed() => {
                intake.queue.close();
                continue;
            }
            () = intake.queue.take(&mut batch) => if batch.is_empty() { return Ok(()) },
            () = time::sleep(PING) => {
                connection.ping().await?;
                continue;
            }
        }
        let mut answers = Answers { intake, waiting: batch.iter(), taken: 0, unheard: 0 };
        let outcome = send(&mut connection, &batch, &mut answers).await;
        let Answers { waiting, taken, unheard, .. } = answers;
        intake.taken(taken, unheard);
        for publication in waiting {
            intake.refuse(&publication, "the bus broke off: the message may or may not have been taken");
        }
        outcome?;
    }
}

/// Publishes a batch, and settles each with what Redis answers to it.
async fn send<H: Handler>(
    connection: &mut Connection,
    batch: &Batch<H::Origin>,
    answers: &mut Answers<'_, H>,
) -> Result<(), LinkError> {
    for Publication { topic, body, .. } in batch.iter() {
        connection.publish(topic, body).await?;
    }
    connection.flush().await?;
    let mut unsettled = batch.len();
    while unsettled > 0 {
        connection
            .answers(|frame| {
                answers.settle(&frame);
                unsettled = unsettled.saturating_sub(1);
            })
            .await?;
    }
    Ok(())
}

/// What Redis has answered to a batch.
struct Answers<'a, H: Handler> {
    intake: &'a Intake<H>,
    /// What it has not answered yet.
    waiting: Publications<'a, H::Origin>,
    taken: usize,
    unheard: usize,
}

impl<H: Handler> Answers<'_, H> {
    /// Redis answers a publish with the number of those who received it.
    fn settle(&mut self, answer: &Frame<'_>) {
        let Some(publication) = self.waiting.next() else { return };
        match answer {
            Frame::Integer(receivers) => {
                self.taken += 1;
                self.unheard += usize::from(*receivers == 0);
            }
            Frame::Error(error) => {
                tracing::debug!(error = %String::from_utf8_lossy(error), "redis refused a publish");
                self.intake.refuse(&publication, "the bus refused the message");
            }
            _ => self.intake.refuse(&publication, "the bus gave no answer that can be understood"),
        }
    }
}

async fn subscribe<H: Handler>(link: Link, mut topics: watch::Receiver<BTreeSet<String>>, intake: &Intake<H>) {
    loop {
        let connection = link.connect().await;
        let error = Subscriber::new(&link, connection, &intake.handler).follow(&mut topics).await;
        link.down(&error);
        // A Redis that accepts and then breaks off shall not be asked without a pause.
        time::sleep(Backoff::new().pause()).await;
    }
}

/// Keeps the subscriptions of one connection what the plugins want.
struct Subscriber<'a, H> {
    link: &'a Link,
    connection: Connection,
    handler: &'a H,
    topics: BTreeSet<String>,
    /// Subscribes and unsubscribes that Redis has not confirmed yet.
    unconfirmed: usize,
    /// It was asked whether it is still there.
    pinged: bool,
}

impl<'a, H: Handler> Subscriber<'a, H> {
    fn new(link: &'a Link, connection: Connection, handler: &'a H) -> Self {
        Self { link, connection, handler, topics: BTreeSet::new(), unconfirmed: 0, pinged: false }
    }

    /// Until the connection breaks.
    async fn follow(mut self, topics: &mut watch::Receiver<BTreeSet<String>>) -> LinkError {
        let Err(error) = self.try_follow(topics).await;
        error
    }

    async fn try_follow(&mut self, topics: &mut watch::Receiver<BTreeSet<String>>) -> Result<Infallible, LinkError> {
        topics.mark_changed();
        loop {
            tokio::select! {
                Ok(()) = topics.changed(), if self.unconfirmed == 0 => {
                    let wanted = topics.borrow_and_update().clone();
                    self.change(wanted).await?;
                }
                heard = hear(&mut self.connection, self.handler) => self.heard(heard?)?,
                () = time::sleep(PING) => self.ping().await?,
            }
        }
    }

    async fn change(&mut self, wanted: BTreeSet<String>) -> Result<(), LinkError> {
        let added: Vec<_> = wanted.difference(&self.topics).map(String::as_str).collect();
        let removed: Vec<_> = self.topics.difference(&wanted).map(String::as_str).collect();
        for (command, topics) in [("SUBSCRIBE", &added), ("UNSUBSCRIBE", &removed)] {
            if !topics.is_empty() {
                let parts: Vec<_> = iter::once(&command).chain(topics).map(|part| part.as_bytes()).collect();
                self.connection.command(&parts);
                tracing::info!(?topics, command, "bus subscriptions change");
            }
        }
        self.unconfirmed = added.len() + removed.len();
        self.topics = wanted;
        if self.unconfirmed == 0 {
            self.confirmed()
        } else {
            self.connection.flush().await?
        }
        Ok(())
    }

    fn heard(&mut self, heard: Heard) -> Result<(), LinkError> {
        if let Some(why) = heard.refused {
            return Err(LinkError::Refused { command: "SUBSCRIBE", why });
        }
        self.pinged = false;
        let waited = self.unconfirmed > 0;
        self.unconfirmed = self.unconfirmed.saturating_sub(heard.confirmed);
        if waited && self.unconfirmed == 0 {
            self.confirmed();
        }
        Ok(())
    }

    fn confirmed(&self) {
        tracing::info!(topics = ?self.topics, "subscribed");
        if self.link.health.is_down(self.link.direction) {
            self.link.up();
        }
    }

    /// Nothing was heard for a while.
    async fn ping(&mut self) -> Result<(), LinkError> {
        if self.pinged {
            return Err(LinkError::Timeout);
        }
        self.pinged = true;
        self.connection.command(&[b"PING"]);
        self.connection.flush().await
    }
}

/// What else was heard than messages.
#[derive(Default)]
struct Heard {
    confirmed: usize,
    refused: Option<String>,
}

/// Waits for what Redis says next, and hands messages to the plugins.
async fn hear(connection: &mut Connection, handler: &impl Handler) -> Result<Heard, LinkError> {
    let mut heard = Heard::default();
    let each = |frame: Frame<'_>| match frame {
        Frame::Push(push) => match push[..] {
            [Frame::Text(b"message"), Frame::Text(topic), Frame::Text(body)] => {
                if let Ok(topic) = str::from_utf8(topic) {
                    // A copy, since a session that reads slowly shall not keep a read buffer alive.
                    handler.message(topic, &Bytes::copy_from_slice(body), None);
                }
            }
            [Frame::Text(b"subscribe" | b"unsubscribe"), ..] => heard.confirmed += 1,
            _ => {}
        },
        Frame::Error(why) => heard.refused = Some(String::from_utf8_lossy(why).into_owned()),
        _ => {}
    };
    connection.frames(each).await?;
    Ok(heard)
}
