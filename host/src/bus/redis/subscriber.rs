//! The subscribing connection. It subscribes to the topics that the plugins want, and passes messages to the plugins.

use super::{
    confirmation::{Confirming, Subscription},
    connection::{Connection, LinkError, for_log},
    link::Link,
};
use crate::{
    bus::intake::{Handler, Intake},
    telemetry::text,
};
use bytes::Bytes;
use gateway_wire::resp::Frame;
use std::{collections::BTreeSet, convert::Infallible, iter, mem, str, sync::Arc};
use tokio::time;

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
            self.publisher.restart();
            let Err(error) = Subscriptions::new(connection).follow(&mut self).await;
            self.publisher.set(Subscription::Lost { hangs: error.is_timeout() });
            self.link.down(&error);
        }
    }
}

/// The subscriptions of one connection.
struct Subscriptions {
    connection: Connection,
    /// The topics that were last sent to Redis.
    topics: BTreeSet<String>,
    /// The number of the request that Redis has not answered yet.
    unconfirmed: Option<u64>,
    /// Whether the topics have to be logged when they are confirmed.
    is_news: bool,
    /// Whether nothing has arrived since the connection was pinged.
    is_pinged: bool,
}

impl Subscriptions {
    fn new(connection: Connection) -> Self {
        Self { connection, topics: BTreeSet::new(), unconfirmed: None, is_news: true, is_pinged: false }
    }

    /// Subscribes to the topics that the plugins want, and handles messages, until the connection breaks.
    async fn follow<H: Handler>(mut self, subscriber: &mut Subscriber<H>) -> Result<Infallible, LinkError> {
        loop {
            let silence = if self.is_pinged { self.connection.ping_timeout() } else { self.connection.max_silence() };
            tokio::select! {
                (topics, number) = subscriber.publisher.wanted(), if self.unconfirmed.is_none() => {
                    self.change(topics, number).await?;
                }
                received = receive(&mut self.connection, &subscriber.intake) => {
                    self.is_pinged = false;
                    if received?.is_some_and(|number| self.unconfirmed == Some(number)) {
                        self.confirm(subscriber);
                    }
                }
                () = time::sleep(silence) => self.ping().await?,
            }
        }
    }

    /// Subscribes to the wanted topics, unsubscribes from all others, and sends a ping with the number. Redis answers
    /// the ping after it has carried out the commands before it.
    async fn change(&mut self, wanted: BTreeSet<String>, number: u64) -> Result<(), LinkError> {
        let added: Vec<_> = wanted.difference(&self.topics).map(String::as_str).collect();
        let removed: Vec<_> = self.topics.difference(&wanted).map(String::as_str).collect();
        for (command, topics) in [("SUBSCRIBE", &added), ("UNSUBSCRIBE", &removed)] {
            if !topics.is_empty() {
                let parts: Vec<_> = iter::once(&command).chain(topics).map(|part| part.as_bytes()).collect();
                self.connection.command(&parts);
                let topics = text::bounded(format_args!("{topics:?}"));
                tracing::info!(topics, command, "bus subscriptions change");
                self.is_news = true;
            }
        }
        self.connection.command(&[b"PING", number.to_string().as_bytes()]);
        self.unconfirmed = Some(number);
        self.topics = wanted;
        self.connection.flush().await
    }

    fn confirm<H: Handler>(&mut self, subscriber: &Subscriber<H>) {
        if let Some(number) = self.unconfirmed.take() {
            if mem::take(&mut self.is_news) {
                tracing::info!(topics = text::bounded(format_args!("{:?}", self.topics)), "subscribed");
            }
            subscriber.link.up();
            subscriber.publisher.set(Subscription::Confirmed(number));
        }
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

/// Waits for frames from Redis, and passes messages to the plugins. Returns the number in the answer to a ping, if
/// there was one. Cancel-safe.
async fn receive<H: Handler>(connection: &mut Connection, intake: &Intake<H>) -> Result<Option<u64>, LinkError> {
    let (mut confirmed, mut refused) = (None, None);
    let each = |frame: Frame<'_>| match frame {
        Frame::Push(push) => {
            if let [Frame::Text(b"message"), Frame::Text(topic), Frame::Text(body)] = push[..]
                && let Ok(topic) = str::from_utf8(topic)
            {
                // The body is copied, so that a session that reads slowly does not keep a read buffer alive.
                if intake.handler.message(topic, &Bytes::copy_from_slice(body), None) == 0 {
                    // The plugin that subscribed to the topic was removed, and Redis has not carried out the
                    // unsubscription yet.
                    intake.metrics.dropped("no_subscriber", 1);
                }
            }
        }
        Frame::Text(answer) => {
            let number = str::from_utf8(answer).ok().and_then(|number| number.parse().ok());
            confirmed = number.or(confirmed);
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
        None => Ok(confirmed),
    }
}
