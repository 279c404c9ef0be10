//! The subscribing connection. It subscribes to the topics that this gateway wants to hear, and passes messages to the
//! plugins.

use super::{
    confirmation::Confirming,
    connection::Connection,
    error::{LinkError, for_log},
    link::Link,
};
use crate::{
    bus::{
        intake::{Handler, Intake},
        queue::ChangeNumber,
        topics::Changes,
    },
    telemetry::text,
};
use bytes::Bytes;
use gateway_wire::resp::Frame;
use std::{collections::BTreeSet, convert::Infallible, iter, str, sync::Arc, time::Duration};
use tokio::time::{self, Instant};

/// The maximum number of topics in one command. Redis carries out a command as a whole, and other clients wait meanwhile.
const MAX_TOPICS_PER_COMMAND: usize = 512;

/// The minimum time between two changes that the publisher does not wait for. Without it, sessions that come and go in
/// quick succession would cause one write and one wake-up of Redis each.
const MIN_CHANGE_INTERVAL: Duration = Duration::from_millis(10);

/// The beginning of the error for a command with a topic that the ACL of the gateway's user does not allow.
const NOT_PERMITTED: &[u8] = b"NOPERM ";

/// The beginning of the text of a ping that follows the commands for the topics that are listened to.
const CHANGE: &str = "change ";

/// The owner of the subscribing connection.
pub(super) struct Subscriber<H: Handler> {
    link: Link,
    intake: Arc<Intake<H>>,
    publisher: Confirming,
}

impl<H: Handler> Subscriber<H> {
    pub(super) fn new(link: Link, intake: Arc<Intake<H>>, publisher: Confirming) -> Self {
        Self { link, intake, publisher }
    }

    /// Connects again and again, and keeps each connection's subscriptions up to date. Never returns.
    pub(super) async fn run(mut self) {
        loop {
            let connection = self.link.connect().await;
            let Err(error) = Subscriptions::new(connection).follow(&mut self).await;
            self.publisher.lose(error.is_timeout());
            self.intake.queue.set_carried_out(ChangeNumber::MAX);
            self.link.down(&error);
        }
    }
}

/// The subscriptions of one connection.
struct Subscriptions {
    connection: Connection,
    /// The number of the publisher's last request.
    number: u64,
    /// Whether Redis has not carried out the last change of the fixed topics yet.
    is_unconfirmed: bool,
    /// Whether Redis may not have answered the commands for the fixed topics yet.
    is_fixed_due: bool,
    /// Whether Redis has subscribed to everything that was wanted when the connection began. Nothing is published before.
    is_complete: bool,
    /// All fixed topics, if they have changed and the change is not confirmed yet.
    news: Option<BTreeSet<String>>,
    /// The earliest time of the next change that the publisher does not wait for.
    next_change: Instant,
    /// Whether nothing has arrived since the connection was pinged.
    is_pinged: bool,
}

impl Subscriptions {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            number: 0,
            is_unconfirmed: false,
            is_fixed_due: false,
            is_complete: false,
            news: None,
            next_change: Instant::now(),
            is_pinged: false,
        }
    }

    /// Subscribes to the wanted topics, and handles messages, until the connection breaks.
    async fn follow<H: Handler>(mut self, subscriber: &mut Subscriber<H>) -> Result<Infallible, LinkError> {
        // Publishes that wait for later changes are held back from here on.
        subscriber.publisher.with_last_change(|last| subscriber.intake.queue.set_carried_out(last));
        loop {
            let silence = if self.is_pinged { self.connection.ping_timeout() } else { self.connection.max_silence() };
            tokio::select! {
                (changes, number) = subscriber.publisher.wanted(self.next_change), if !self.is_unconfirmed => {
                    self.change(changes, number).await?;
                }
                received = receive(&mut self.connection, &subscriber.intake, self.is_fixed_due) => {
                    self.is_pinged = false;
                    self.answered(received?, subscriber);
                }
                () = time::sleep(silence) => self.ping().await?,
            }
        }
    }

    /// Subscribes and unsubscribes. A ping with the publisher's number follows the fixed topics, and a ping with the number
    /// of the last change follows the topics that are listened to. Redis answers a ping after it has carried out the
    /// commands before it.
    ///
    /// On a new connection, the publisher waits for all topics. Later it waits for changes of the fixed topics only. The
    /// answers to the other topics are read before the next change is sent or shortly after, so they do not pile up in
    /// Redis.
    async fn change(&mut self, changes: Changes, number: u64) -> Result<(), LinkError> {
        self.command("SUBSCRIBE", &changes.fixed);
        self.command("UNSUBSCRIBE", &changes.removed);
        self.connection.command(&[b"PING", number.to_string().as_bytes()]);
        self.command("SUBSCRIBE", &changes.added);
        if let Some(last) = changes.last.filter(|_| !changes.added.is_empty() || !self.is_complete) {
            self.connection.command(&[b"PING", format!("{CHANGE}{last}").as_bytes()]);
        }
        (self.number, self.is_unconfirmed) = (number, true);
        if changes.news.is_some() {
            (self.news, self.is_fixed_due) = (changes.news, true);
        }
        if self.is_complete {
            self.next_change = Instant::now() + MIN_CHANGE_INTERVAL;
        }
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

    fn answered<H: Handler>(&mut self, answers: Answers, subscriber: &Subscriber<H>) {
        if answers.number == Some(self.number) {
            (self.is_unconfirmed, self.is_fixed_due) = (false, false);
            if self.is_complete {
                self.confirm(subscriber);
            }
        }
        if let Some(last) = answers.change {
            subscriber.intake.queue.set_carried_out(last);
            if !self.is_complete {
                self.is_complete = true;
                self.confirm(subscriber);
            }
        }
    }

    fn confirm<H: Handler>(&mut self, subscriber: &Subscriber<H>) {
        if let Some(topics) = self.news.take() {
            tracing::info!(topics = text::bounded(format_args!("{topics:?}")), "subscribed");
        }
        subscriber.link.up();
        subscriber.publisher.confirm(self.number);
    }

    /// Pings Redis after a silence. Returns an error if the last ping is still unanswered.
    async fn ping(&mut self) -> Result<(), LinkError> {
        if self.is_pinged {
            return Err(self.connection.timed_out());
        }
        self.is_pinged = true;
        self.connection.command(&[b"PING"]);
        self.connection.flush().await
    }
}

/// The answers to pings.
#[derive(Default)]
struct Answers {
    /// The number of the publisher's request.
    number: Option<u64>,
    /// The number of a change.
    change: Option<ChangeNumber>,
}

/// Waits for frames from Redis, and passes messages to the plugins. Returns the answers to pings. Cancel-safe.
///
/// `is_fixed_due` is true if Redis may not have answered the commands for the fixed topics yet. A refusal of these ends
/// the connection, because the plugins cannot work without them. A topic that is listened to may come from a client, so
/// its refusal must not end the connection.
async fn receive<H: Handler>(
    connection: &mut Connection,
    intake: &Intake<H>,
    is_fixed_due: bool,
) -> Result<Answers, LinkError> {
    let (mut answers, mut refused) = (Answers::default(), None);
    let each = |frame: Frame<'_>| match frame {
        Frame::Push(push) => {
            if let [Frame::Text(b"message"), Frame::Text(topic), Frame::Text(body)] = push[..]
                && let Ok(topic) = str::from_utf8(topic)
            {
                // The body is copied, so that a session that reads slowly does not keep a read buffer alive.
                if intake.handler.message(topic, &Bytes::copy_from_slice(body), None) == 0 {
                    // The last plugin, session or group that wanted the topic has ended, and Redis has not carried out
                    // the unsubscription yet.
                    intake.metrics.dropped("no_subscriber", 1);
                }
            }
        }
        Frame::Text(answer) => {
            let answer = str::from_utf8(answer).unwrap_or_default();
            match answer.strip_prefix(CHANGE) {
                Some(change) => answers.change = change.parse().ok().or(answers.change),
                None => answers.number = answer.parse().ok().or(answers.number),
            }
        }
        Frame::Error(why) if why.starts_with(NOT_PERMITTED) && (!is_fixed_due || answers.number.is_some()) => {
            listening_refused(why, intake)
        }
        Frame::Error(why) => refused = Some(for_log(why)),
        _ => {}
    };
    let too_large = connection.frames(each).await?;
    if too_large > 0 {
        intake.metrics.dropped("bus_message_too_large", too_large);
        if intake.metrics.log_limits.permit("bus message too large", "") {
            tracing::warn!("bus message dropped: it is larger than `server.max_message_bytes`");
        }
    }
    match refused {
        Some(why) => Err(LinkError::Refused { command: "SUBSCRIBE", why }),
        None => Ok(answers),
    }
}

fn listening_refused<H: Handler>(why: &[u8], intake: &Intake<H>) {
    if intake.metrics.log_limits.permit("listening refused by redis", "") {
        tracing::warn!(
            error = for_log(why),
            "redis refused topics that plugins listen to, so they are not heard: allow them in the ACL of the gateway's \
             user"
        );
    }
}

#[cfg(test)]
mod tests;
