//! The subscribing connection: it keeps the subscriptions what the plugins want, and hands messages to them.

use super::{
    confirmation::{Confirming, Subscription},
    connection::{Connection, LinkError, shown},
    link::Link,
};
use crate::{
    bus::{Handler, Intake},
    telemetry::text,
};
use bytes::Bytes;
use gateway_wire::resp::Frame;
use std::{collections::BTreeSet, convert::Infallible, iter, mem, str, sync::Arc};
use tokio::time;

pub(super) struct Subscriber<H: Handler> {
    link: Link,
    intake: Arc<Intake<H>>,
    publisher: Confirming,
}

impl<H: Handler> Subscriber<H> {
    pub(super) fn new(link: Link, intake: Arc<Intake<H>>, publisher: Confirming) -> Self {
        Self { link, intake, publisher }
    }

    /// Never ends.
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
    topics: BTreeSet<String>,
    /// The number of the change that Redis has not confirmed yet.
    unconfirmed: Option<u64>,
    /// The topics are to be logged when they are confirmed.
    is_news: bool,
    /// Nothing was heard since the connection was pinged.
    is_pinged: bool,
}

impl Subscriptions {
    fn new(connection: Connection) -> Self {
        Self { connection, topics: BTreeSet::new(), unconfirmed: None, is_news: true, is_pinged: false }
    }

    /// Follows what the plugins want, until the connection breaks.
    async fn follow<H: Handler>(mut self, subscriber: &mut Subscriber<H>) -> Result<Infallible, LinkError> {
        loop {
            let silence = if self.is_pinged { self.connection.ping_timeout() } else { self.connection.max_silence() };
            tokio::select! {
                (topics, number) = subscriber.publisher.wanted(), if self.unconfirmed.is_none() => {
                    self.change(topics, number).await?;
                }
                heard = hear(&mut self.connection, &subscriber.intake) => {
                    self.is_pinged = false;
                    if heard?.is_some_and(|number| self.unconfirmed == Some(number)) {
                        self.confirm(subscriber);
                    }
                }
                () = time::sleep(silence) => self.ping().await?,
            }
        }
    }

    /// Subscribes to what is wanted. Redis answers the ping when it has done all that was sent before.
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

    /// To be called when nothing was heard for a while.
    async fn ping(&mut self) -> Result<(), LinkError> {
        if self.is_pinged {
            return Err(self.connection.timed_out());
        }
        self.is_pinged = true;
        self.connection.command(&[b"PING"]);
        self.connection.flush().await
    }
}

/// Waits for what Redis says next, and hands messages to the plugins. Returns the number that was confirmed, if one was. Cancel-safe.
async fn hear<H: Handler>(connection: &mut Connection, intake: &Intake<H>) -> Result<Option<u64>, LinkError> {
    let (mut confirmed, mut refused) = (None, None);
    let each = |frame: Frame<'_>| match frame {
        Frame::Push(push) => {
            if let [Frame::Text(b"message"), Frame::Text(topic), Frame::Text(body)] = push[..]
                && let Ok(topic) = str::from_utf8(topic)
            {
                // A copy, since a session that reads slowly shall not keep a read buffer alive.
                if intake.handler.message(topic, &Bytes::copy_from_slice(body), None) == 0 {
                    // The plugin that heard it was taken away, and Redis has not unsubscribed yet.
                    intake.metrics.dropped("no_subscriber", 1);
                }
            }
        }
        Frame::Text(answer) => {
            let number = str::from_utf8(answer).ok().and_then(|number| number.parse().ok());
            confirmed = number.or(confirmed);
        }
        Frame::Error(why) => refused = Some(shown(why)),
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
