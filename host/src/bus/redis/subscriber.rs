//! The subscribing connection. It subscribes to the topics that this gateway wants to hear, and passes messages to the
//! plugins.

#[cfg(test)]
mod tests;

use super::{
    confirmation::Confirming,
    connection::Connection,
    error::LinkError,
    incoming::{ALL, Answers, Incoming, PONG},
    link::Link,
    probe::{Probed, Report},
    silence::{Silence, Step},
};
use crate::{
    bus::{
        intake::{Handler, Intake},
        topics::Changes,
    },
    telemetry::text,
};
use std::{collections::BTreeSet, convert::Infallible, iter, sync::Arc, time::Duration};
use tokio::time::{self, Instant};

/// The maximum number of topics in one command. Redis carries out a command as a whole, and other clients wait meanwhile.
const MAX_TOPICS_PER_COMMAND: usize = 512;

/// The minimum time between two changes that the publisher does not wait for. Without it, sessions that come and go in
/// quick succession would cause one write and one wake-up of Redis each.
const MIN_CHANGE_INTERVAL: Duration = Duration::from_millis(10);

/// The owner of the subscribing connection.
pub(super) struct Subscriber<H: Handler> {
    link: Link,
    intake: Arc<Intake<H>>,
    publisher: Confirming,
    probed: Probed,
    /// Since when messages may have been lost, if the handler was not told yet.
    blind_since: Option<Instant>,
}

impl<H: Handler> Subscriber<H> {
    pub(super) fn new(link: Link, intake: Arc<Intake<H>>, publisher: Confirming, probed: Probed) -> Self {
        Self { link, intake, publisher, probed, blind_since: None }
    }

    /// Connects again and again, and keeps each connection's subscriptions up to date. Never returns.
    pub(super) async fn run(mut self) {
        loop {
            let connection = self.link.connect().await;
            let mut subscriptions = Subscriptions::new(connection, self.probed.clone());
            let Err(error) = subscriptions.follow(&mut self).await;
            if let Some(since) = subscriptions.worked_until() {
                // If the connection after a break breaks before the handler was told, it is one long gap.
                self.blind_since.get_or_insert(since);
            }
            self.publisher.lose(error.is_timeout());
            self.link.down(&error);
        }
    }
}

/// The subscriptions of one connection.
struct Subscriptions {
    connection: Connection,
    incoming: Incoming,
    /// The number of the request that Redis has not answered yet.
    unconfirmed: Option<u64>,
    /// The last probe that was sent before the topics were confirmed for the first time, or `None` before that. A probe
    /// after it shows whether this connection works.
    first_probe_after: Option<u64>,
    /// All fixed topics, if they have changed and the change is not confirmed yet.
    news: Option<BTreeSet<String>>,
    /// The earliest time of the next change that the publisher does not wait for.
    next_change: Instant,
    silence: Silence,
}

impl Subscriptions {
    fn new(connection: Connection, probed: Probed) -> Self {
        Self {
            silence: Silence::new(probed.interval, connection.timeout(), connection.last_read()),
            connection,
            incoming: Incoming::new(probed),
            unconfirmed: None,
            first_probe_after: None,
            news: None,
            next_change: Instant::now(),
        }
    }

    /// Returns when the last bytes arrived, or `None` if the fixed topics were never subscribed to.
    fn worked_until(&self) -> Option<Instant> {
        self.first_probe_after.map(|_| self.connection.last_read())
    }

    /// Subscribes to the wanted topics, and handles messages, until the connection breaks.
    async fn follow<H: Handler>(&mut self, subscriber: &mut Subscriber<H>) -> Result<Infallible, LinkError> {
        loop {
            let due = self.silence.due();
            tokio::select! {
                // What can be read comes before the time that is due, so that a late task does not see a silence.
                biased;
                (changes, number) = subscriber.publisher.wanted(self.next_change), if self.unconfirmed.is_none() => {
                    self.change(changes, number, subscriber.blind_since.is_some()).await?;
                }
                Ok(()) = subscriber.probed.reports.changed() => {
                    let report = subscriber.probed.reports.borrow_and_update().clone();
                    self.on_report(&report)?;
                }
                received = self.incoming.receive(&mut self.connection, &subscriber.intake, self.news.is_some()) => {
                    let answers = received?;
                    self.on_received(answers, subscriber).await?;
                }
                () = time::sleep_until(due) => self.on_silence(&subscriber.link).await?,
            }
        }
    }

    /// Subscribes and unsubscribes, and sends a ping with the number. Redis answers the ping after it has carried out
    /// the commands before it.
    ///
    /// The topics that are listened to come after the ping, so that a confirmation does not depend on them. The answers
    /// to them are read before the next change is sent or shortly after, so they do not pile up in Redis.
    ///
    /// If messages may have been lost, another ping shows that no topic is missing any more.
    async fn change(&mut self, changes: Changes, number: u64, is_blind: bool) -> Result<(), LinkError> {
        if let Some(channel) = self.incoming.channel_to_subscribe_to() {
            // It has a command of its own, because an ACL that forbids one topic forbids the whole command.
            self.connection.command(&[b"SUBSCRIBE", channel.as_bytes()]);
        }
        self.command("SUBSCRIBE", &changes.fixed);
        self.command("UNSUBSCRIBE", &changes.removed);
        self.connection.command(&[b"PING", number.to_string().as_bytes()]);
        self.command("SUBSCRIBE", &changes.added);
        if is_blind && !changes.has_more {
            self.connection.command(&[b"PING", ALL]);
        }
        self.unconfirmed = Some(number);
        self.news = changes.news;
        self.next_change = Instant::now() + MIN_CHANGE_INTERVAL;
        self.silence.confirming(Instant::now());
        self.connection.flush().await
    }

    /// Queues a command for all of the topics.
    fn command(&mut self, command: &str, topics: &[Arc<str>]) {
        for topics in topics.chunks(MAX_TOPICS_PER_COMMAND) {
            let parts: Vec<_> =
                iter::once(command).chain(topics.iter().map(|topic| &**topic)).map(str::as_bytes).collect();
            self.connection.command(&parts);
            let count = topics.len();
            tracing::debug!(
                command,
                count,
                topics = text::bounded(format_args!("{topics:?}")),
                "bus subscriptions change"
            );
        }
    }

    async fn on_received<H: Handler>(
        &mut self,
        answers: Answers,
        subscriber: &mut Subscriber<H>,
    ) -> Result<(), LinkError> {
        let arrival = self.silence.arrived(self.connection.last_read(), self.incoming.last_probe());
        if arrival.was_late && self.first_probe_after.is_some() {
            subscriber.link.up();
        }
        if answers.number.is_some() && answers.number == self.unconfirmed {
            self.confirm(subscriber);
        }
        if answers.is_pong && self.silence.answered(Instant::now()).is_err() {
            return Err(LinkError::Lost);
        }
        if self.silence.is_unheard() {
            return Err(self.connection.timed_out());
        }
        if arrival.is_ping_due {
            self.ping().await?;
        }
        if answers.is_all
            && let Some(since) = subscriber.blind_since.take()
        {
            subscriber.intake.handler.missed(since.elapsed()).await;
        }
        Ok(())
    }

    fn confirm<H: Handler>(&mut self, subscriber: &Subscriber<H>) {
        if let Some(number) = self.unconfirmed.take() {
            if let Some(topics) = self.news.take() {
                tracing::info!(topics = text::bounded(format_args!("{topics:?}")), "subscribed");
            }
            self.silence.confirmed();
            let reports = &subscriber.probed.reports;
            self.first_probe_after.get_or_insert_with(|| reports.borrow().sent);
            subscriber.link.up();
            subscriber.publisher.confirm(number);
        }
    }

    /// Handles what the publisher has learned from its probes.
    fn on_report(&mut self, report: &Report) -> Result<(), LinkError> {
        let is_newer = |number: u64| self.first_probe_after.is_some_and(|last| number > last);
        if is_newer(report.by_replica) {
            return Err(self.connection.is_replica());
        }
        if is_newer(report.unheard) {
            return Err(LinkError::Unheard);
        }
        if is_newer(report.passed_on) {
            self.silence.passed_on(report.passed_on, Instant::now());
        }
        // The probe may have arrived before this report.
        if self.silence.is_unheard() { Err(self.connection.timed_out()) } else { Ok(()) }
    }

    /// Does what is due when nothing has arrived for some time, or when a probe has not arrived.
    async fn on_silence(&mut self, link: &Link) -> Result<(), LinkError> {
        match self.silence.step(Instant::now()) {
            Step::Read => Ok(()),
            Step::Ping => self.ping().await,
            Step::Late => {
                // Before the first confirmation, the direction does not count as connected.
                if self.first_probe_after.is_some() {
                    link.late(&self.connection);
                }
                Ok(())
            }
            Step::GiveUp => Err(self.connection.timed_out()),
        }
    }

    async fn ping(&mut self) -> Result<(), LinkError> {
        self.connection.command(&[b"PING", PONG]);
        self.connection.flush().await
    }
}
