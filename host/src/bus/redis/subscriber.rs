//! The subscribing connection. It subscribes to the topics that this gateway wants to hear, and passes messages to the
//! plugins.

#[cfg(test)]
mod tests;

use super::{
    confirmation::Confirming,
    connection::Connection,
    error::LinkError,
    incoming::{Answers, CHANGE, Incoming, PONG},
    link::Link,
    observer::Observer,
    probe::{Probed, Report},
    silence::{Silence, Step},
    slot,
    words::Words,
};
use crate::{
    bus::{
        intake::{Handler, Intake},
        topics::Changes,
    },
    telemetry::text,
};
use std::{collections::BTreeSet, convert::Infallible, iter, mem, sync::Arc, time::Duration};
use tokio::time::{self, Instant};

/// The maximum number of topics in one command. Redis carries out a command as a whole, and other clients wait meanwhile.
const MAX_TOPICS_PER_COMMAND: usize = 512;

/// The minimum time between two changes that the publisher does not wait for. Without it, sessions that come and go in
/// quick succession would cause one write and one wake-up of Redis each.
const MIN_CHANGE_INTERVAL: Duration = Duration::from_millis(10);

/// The owner of the subscribing connection.
pub(super) struct Subscriber<H: Handler> {
    link: Link,
    words: &'static Words,
    intake: Arc<Intake<H>>,
    observer: Arc<dyn Observer<H::Origin>>,
    publisher: Confirming,
    probed: Probed,
    /// Since when messages may have been lost, if the handler was not told yet.
    blind_since: Option<Instant>,
}

impl<H: Handler> Subscriber<H> {
    pub(super) fn new(
        link: Link,
        words: &'static Words,
        (intake, observer): (Arc<Intake<H>>, Arc<dyn Observer<H::Origin>>),
        publisher: Confirming,
        probed: Probed,
    ) -> Self {
        Self { link, words, intake, observer, publisher, probed, blind_since: None }
    }

    /// Connects again and again, and keeps each connection's subscriptions up to date. Never returns.
    pub(super) async fn run(mut self) {
        loop {
            let connection = self.link.connect().await;
            let mut subscriptions = Subscriptions::new(connection, self.words, self.probed.clone());
            let Err(error) = subscriptions.follow(&mut self).await;
            let worked_until = subscriptions.worked_until();
            if let Some(since) = worked_until {
                // If the connection after a break breaks before the handler was told, it is one long gap.
                let since = *self.blind_since.get_or_insert(since);
                self.publisher.set_gap(Some(since));
            }
            self.publisher.lose(error.is_timeout());
            self.observer.lost(worked_until);
            self.link.down(&error);
        }
    }
}

/// The subscriptions of one connection.
struct Subscriptions {
    connection: Connection,
    words: &'static Words,
    incoming: Incoming,
    /// The number of the publisher's last request.
    number: u64,
    /// Whether Redis has not carried out the last change of the fixed topics yet.
    is_unconfirmed: bool,
    /// Whether Redis may not have answered the commands for the fixed topics yet.
    is_fixed_due: bool,
    /// The last probe that was sent before Redis had subscribed to everything that was wanted when the connection began,
    /// or `None` before that. Nothing is published before. A probe after it shows whether this connection works.
    first_probe_after: Option<u64>,
    /// Whether topics were subscribed to, and no ping with the number of the last change has followed yet.
    is_change_due: bool,
    /// All fixed topics, if they have changed and the change is not confirmed yet.
    news: Option<BTreeSet<String>>,
    /// The earliest time of the next change that the publisher does not wait for.
    next_change: Instant,
    silence: Silence,
}

impl Subscriptions {
    fn new(connection: Connection, words: &'static Words, probed: Probed) -> Self {
        Self {
            silence: Silence::new(probed.interval, connection.timeout(), connection.last_read()),
            connection,
            words,
            incoming: Incoming::new(words, probed),
            number: 0,
            is_unconfirmed: false,
            is_fixed_due: false,
            first_probe_after: None,
            is_change_due: true,
            news: None,
            next_change: Instant::now(),
        }
    }

    /// Returns when the last bytes arrived, or `None` if the connection ended before everything was subscribed to.
    fn worked_until(&self) -> Option<Instant> {
        self.first_probe_after.map(|_| self.connection.last_read())
    }

    /// Subscribes to the wanted topics, and handles messages, until the connection breaks.
    async fn follow<H: Handler>(&mut self, subscriber: &mut Subscriber<H>) -> Result<Infallible, LinkError> {
        subscriber.publisher.with_last_change(|last| subscriber.observer.began(last));
        loop {
            let due = self.silence.due();
            tokio::select! {
                // What can be read comes before the time that is due, so that a late task does not see a silence.
                biased;
                (changes, number) = subscriber.publisher.wanted(self.next_change), if !self.is_unconfirmed => {
                    self.change(changes, number).await?;
                }
                Ok(()) = subscriber.probed.reports.changed() => {
                    let report = subscriber.probed.reports.borrow_and_update().clone();
                    self.on_report(&report)?;
                }
                received = self.incoming.receive(&mut self.connection, &subscriber.intake, self.is_fixed_due) => {
                    let (messages, answers) = received?;
                    self.incoming.handle(messages, &subscriber.intake).await;
                    self.on_answers(answers, subscriber).await?;
                }
                () = time::sleep_until(due) => self.on_silence(&subscriber.link).await?,
            }
        }
    }

    /// Returns whether Redis has subscribed to everything that was wanted when the connection began.
    fn is_complete(&self) -> bool {
        self.first_probe_after.is_some()
    }

    /// Subscribes and unsubscribes. A ping with the publisher's number follows the fixed topics, and a ping with the number
    /// of the last change follows the topics that are listened to. Redis answers a ping after it has carried out the
    /// commands before it.
    ///
    /// On a new connection, the publisher waits for all topics. Later it waits for changes of the fixed topics only. The
    /// answers to the other topics are read before the next change is sent or shortly after, so they do not pile up in
    /// Redis.
    async fn change(&mut self, changes: Changes, number: u64) -> Result<(), LinkError> {
        if let Some(channel) = self.incoming.channel_to_subscribe_to() {
            // It has a command of its own, because an ACL that forbids one topic forbids the whole command.
            self.connection.command(&[self.words.subscribe.as_bytes(), channel.as_bytes()]);
        }
        self.command(self.words.subscribe, &changes.fixed);
        self.command(self.words.unsubscribe, &changes.removed);
        self.incoming.ping(&mut self.connection, number.to_string());
        self.command(self.words.subscribe, &changes.added);
        self.is_change_due |= !changes.added.is_empty() || changes.news.is_some();
        if let Some(last) = changes.last
            && mem::take(&mut self.is_change_due)
        {
            self.incoming.ping(&mut self.connection, format!("{CHANGE}{last}"));
        }
        (self.number, self.is_unconfirmed) = (number, true);
        if changes.news.is_some() {
            (self.news, self.is_fixed_due) = (changes.news, true);
        }
        if self.is_complete() {
            self.next_change = Instant::now() + MIN_CHANGE_INTERVAL;
        }
        self.silence.confirming(Instant::now());
        self.connection.flush().await
    }

    /// Queues a command for all of the topics.
    fn command(&mut self, command: &str, topics: &[Arc<str>]) {
        let max = if self.words.is_sharded { 1 } else { MAX_TOPICS_PER_COMMAND };
        for topics in topics.chunks(max) {
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

    async fn on_answers<H: Handler>(
        &mut self,
        mut answers: Answers,
        subscriber: &mut Subscriber<H>,
    ) -> Result<(), LinkError> {
        if let Some(why) = answers.refused.take() {
            return Err(LinkError::Refused { command: "SUBSCRIBE", why });
        }
        let arrival = self.silence.arrived(self.connection.last_read(), self.incoming.last_probe());
        if arrival.was_late && self.is_complete() {
            subscriber.link.up();
        }
        self.note(&answers, subscriber);
        if answers.is_pong && self.silence.answered(Instant::now()).is_err() {
            return Err(LinkError::Lost);
        }
        if self.silence.is_unheard() {
            return Err(self.connection.timed_out());
        }
        if arrival.is_ping_due {
            self.ping().await?;
        }
        if self.is_complete()
            && let Some(since) = subscriber.blind_since.take()
        {
            if subscriber.publisher.has_topics() {
                subscriber.intake.handler.missed(since.elapsed()).await;
            }
            subscriber.publisher.set_gap(None);
        }
        Ok(())
    }

    fn note<H: Handler>(&mut self, answers: &Answers, subscriber: &Subscriber<H>) {
        let ended = answers.ended.iter().filter(|topic| subscriber.publisher.subscribes_to(topic));
        for slot in answers.misplaced.iter().copied().chain(ended.map(|topic| Some(slot::of(topic)))) {
            subscriber.observer.misplaced(slot);
        }
        if answers.number == Some(self.number) {
            (self.is_unconfirmed, self.is_fixed_due) = (false, false);
            if self.is_complete() {
                self.confirm(subscriber);
            }
        }
        if let Some(last) = answers.change {
            subscriber.observer.carried_out(last);
            if !self.is_complete() {
                self.first_probe_after = Some(subscriber.probed.reports.borrow().sent);
                self.confirm(subscriber);
            }
        }
    }

    fn confirm<H: Handler>(&mut self, subscriber: &Subscriber<H>) {
        if let Some(topics) = self.news.take() {
            tracing::info!(topics = text::bounded(format_args!("{topics:?}")), "subscribed");
        }
        self.silence.confirmed();
        subscriber.link.up();
        subscriber.publisher.confirm(self.number);
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
                if self.is_complete() {
                    link.late(&self.connection);
                }
                Ok(())
            }
            Step::GiveUp => Err(self.connection.timed_out()),
        }
    }

    async fn ping(&mut self) -> Result<(), LinkError> {
        self.incoming.ping(&mut self.connection, PONG.to_owned());
        self.connection.flush().await
    }
}
