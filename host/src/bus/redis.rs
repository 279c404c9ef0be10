//! Redis: one connection to publish and one to subscribe, each connected anew whenever it breaks.
//!
//! Not a client library's connections: all that waits is one write, what comes back is read in place, and the subscriber's messages are
//! handled where they are read. No queue stands between, so a slow policy makes Redis wait instead of growing this process's memory.
//!
//! A publish that was under way when the connection broke may or may not have reached Redis. It is not sent again, since a doubled
//! message is worse than an honest refusal: its sender is told.

mod connection;
mod resp;

use super::{Deliver, Direction, Health, Intake, Origin, Publication, backoff::Backoff};
use crate::config;
use bytes::Bytes;
use connection::{Connection, LinkError};
use resp::Frame;
use std::{collections::BTreeSet, convert::Infallible, iter, sync::Arc, time::Duration};
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

/// Publishes that are taken from the queue at once.
const BATCH: usize = 1024;
/// How long publishes wait for a connection that broke, before they are refused; until it is back, later ones are refused at once.
const GRACE: Duration = Duration::from_secs(5);
/// How often a silent connection is tried.
const PING: Duration = Duration::from_secs(5);

/// Runs both directions until `stop`.
pub(super) async fn run<O: Origin>(
    config: config::Redis,
    intake: Intake<O>,
    topics: watch::Receiver<BTreeSet<String>>,
    deliver: Deliver,
    health: Arc<Health>,
    stop: CancellationToken,
) {
    let link = |direction| Link { config: config.clone(), health: Arc::clone(&health), direction };
    let subscribing = subscribe(link(Direction::Subscribe), topics, deliver);
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

async fn publish<O: Origin>(link: Link, mut intake: Intake<O>, stop: CancellationToken) {
    loop {
        intake.set_away(true);
        let connection = tokio::select! {
            connection = link.connect() => connection,
            () = refuse_late(&mut intake) => return,
            () = stop.cancelled() => return refuse_all(&mut intake).await,
        };
        intake.set_away(false);
        link.up();
        match forward(connection, &mut intake, &stop).await {
            Ok(()) => return,
            Err(error) => link.down(&error),
        }
    }
}

/// Lets publishes wait for a while, then refuses them until it is dropped. Ends when the queue is closed.
async fn refuse_late<O: Origin>(intake: &mut Intake<O>) {
    time::sleep(GRACE).await;
    let mut batch = Vec::new();
    while intake.take(&mut batch, BATCH).await > 0 {
        for publication in batch.drain(..) {
            intake.refuse(&publication, "the bus is away");
        }
    }
}

async fn refuse_all<O: Origin>(intake: &mut Intake<O>) {
    intake.receiver.close();
    let mut batch = Vec::new();
    while intake.take(&mut batch, BATCH).await > 0 {
        for publication in batch.drain(..) {
            intake.refuse(&publication, "the bus is away");
        }
    }
}

/// Publishes what is queued, all that is ready at once, until the connection breaks or the queue is closed and empty.
async fn forward<O: Origin>(
    mut connection: Connection,
    intake: &mut Intake<O>,
    stop: &CancellationToken,
) -> Result<(), LinkError> {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            biased;
            // Before anything is taken: what waits for the next connection is not lost with this one.
            heard = connection.frames(|_| {}) => {
                heard?;
                continue;
            }
            taken = intake.take(&mut batch, BATCH) => if taken == 0 { return Ok(()) },
            () = stop.cancelled(), if !intake.receiver.is_closed() => {
                intake.receiver.close();
                continue;
            }
            () = time::sleep(PING) => {
                connection.ping().await?;
                continue;
            }
        }
        let mut settled = 0;
        let outcome = send(&mut connection, &batch, |publication, answer| {
            settle(intake, publication, answer);
            settled += 1;
        });
        let outcome = outcome.await;
        for publication in &batch[settled..] {
            intake.refuse(publication, "the bus broke off: the message may or may not have been taken");
        }
        batch.clear();
        outcome?;
    }
}

/// Publishes a batch, and hands over what Redis answers to each.
async fn send<O>(
    connection: &mut Connection,
    batch: &[Publication<O>],
    mut answered: impl FnMut(&Publication<O>, &Frame<'_>),
) -> Result<(), LinkError> {
    for publication in batch {
        connection.publish(&publication.topic, &publication.body).await?;
    }
    connection.flush().await?;
    let mut waiting = batch.iter();
    while !waiting.as_slice().is_empty() {
        let answer = |frame: Frame<'_>| {
            if let Some(publication) = waiting.next() {
                answered(publication, &frame);
            }
        };
        connection.answers(answer).await?;
    }
    Ok(())
}

/// Redis answers a publish with the number of those who received it.
fn settle<O: Origin>(intake: &Intake<O>, publication: &Publication<O>, answer: &Frame<'_>) {
    match answer {
        Frame::Integer(receivers) => {
            intake.metrics.published.inc();
            if *receivers == 0 {
                intake.metrics.unheard.inc();
            }
        }
        Frame::Error(error) => {
            tracing::debug!(error = %String::from_utf8_lossy(error), "redis refused a publish");
            intake.refuse(publication, "the bus refused the message");
        }
        _ => intake.refuse(publication, "the bus gave no answer that can be understood"),
    }
}

async fn subscribe(link: Link, mut topics: watch::Receiver<BTreeSet<String>>, deliver: Deliver) {
    loop {
        let connection = link.connect().await;
        let error = Subscriber::new(&link, connection, &deliver).follow(&mut topics).await;
        link.down(&error);
        // A Redis that accepts and then breaks off shall not be asked without a pause.
        time::sleep(Backoff::new().pause()).await;
    }
}

/// Keeps the subscriptions of one connection what the plugins want.
struct Subscriber<'a> {
    link: &'a Link,
    connection: Connection,
    deliver: &'a Deliver,
    topics: BTreeSet<String>,
    /// Subscribes and unsubscribes that Redis has not confirmed yet.
    unconfirmed: usize,
    /// It was asked whether it is still there.
    pinged: bool,
}

impl<'a> Subscriber<'a> {
    fn new(link: &'a Link, connection: Connection, deliver: &'a Deliver) -> Self {
        Self { link, connection, deliver, topics: BTreeSet::new(), unconfirmed: 0, pinged: false }
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
                heard = hear(&mut self.connection, self.deliver) => self.heard(heard?)?,
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
async fn hear(connection: &mut Connection, deliver: &Deliver) -> Result<Heard, LinkError> {
    let mut heard = Heard::default();
    let each = |frame: Frame<'_>| match frame {
        Frame::Push(push) => match push[..] {
            [Frame::Text(b"message"), Frame::Text(topic), Frame::Text(body)] => {
                if let Ok(topic) = str::from_utf8(topic) {
                    // A copy, since a session that reads slowly shall not keep a read buffer alive.
                    deliver(topic, &Bytes::copy_from_slice(body));
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
