//! What arrives on the subscribing connection: messages, which are for the plugins, probes, and answers to commands.

use super::{
    connection::Connection,
    error::{CANNOT_SAVE, LinkError, MOVED, NOT_PERMITTED, for_log},
    probe::{Probed, warn_of},
    slot,
    words::Words,
};
use crate::bus::{
    intake::{Handler, Intake, Message},
    queue::ChangeNumber,
};
use bytes::Bytes;
use gateway_wire::resp::Frame;
use std::{collections::VecDeque, str};

/// The text of the `PING` that checks whether the connection still works, and of its answer. Other pings have a number.
pub(super) const PONG: &str = "alive";

/// The beginning of the text of a `PING` that follows the commands for the topics that are listened to. The number of the
/// last change follows.
pub(super) const CHANGE: &str = "change ";

/// The reader of one connection.
pub(super) struct Incoming {
    words: &'static Words,
    probed: Probed,
    channel: Channel,
    /// The texts of the `PING`s that Redis has not answered yet, in their order.
    pings: VecDeque<String>,
    /// The number of the last probe that has arrived, or 0.
    last_probe: u64,
}

/// The subscription to the channel of the probes. It is the first command of a connection, so its answer comes first.
#[derive(PartialEq, Eq)]
enum Channel {
    Unasked,
    Asked,
    Answered,
}

/// What Redis has answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answers {
    /// The number of the publisher's request.
    pub(super) number: Option<u64>,
    /// Whether the ping with the text [`PONG`] was answered.
    pub(super) is_pong: bool,
    /// The number of a change of the topics that are listened to.
    pub(super) change: Option<ChangeNumber>,
    /// The slots for whose topics another node of the Cluster is responsible.
    pub(super) misplaced: Vec<Option<u16>>,
    /// The topics that the server has ended the subscriptions to, asked or unasked.
    pub(super) ended: Vec<String>,
    /// Why Redis has refused fixed topics, if it has. This ends the connection after the messages were handled.
    pub(super) refused: Option<String>,
}

impl Answers {
    /// Notes the answer to the `PING` with a text.
    fn answer(&mut self, ping: &str) {
        match ping.strip_prefix(CHANGE) {
            Some(change) => self.change = change.parse().ok().or(self.change),
            None if ping == PONG => self.is_pong = true,
            None => self.number = ping.parse().ok().or(self.number),
        }
    }
}

impl Incoming {
    pub(super) fn new(words: &'static Words, probed: Probed) -> Self {
        Self { words, probed, channel: Channel::Unasked, pings: VecDeque::new(), last_probe: 0 }
    }

    /// Returns the channel of the probes at the first call, and `None` later.
    pub(super) fn channel_to_subscribe_to(&mut self) -> Option<&str> {
        if self.channel != Channel::Unasked {
            return None;
        }
        self.channel = Channel::Asked;
        Some(&self.probed.channel)
    }

    /// Queues a `PING` with a text. Redis answers it after it has carried out the commands before it.
    pub(super) fn ping(&mut self, connection: &mut Connection, text: String) {
        connection.command(&[b"PING", text.as_bytes()]);
        self.pings.push_back(text);
    }

    /// Returns the number of the last probe that has arrived, or 0.
    pub(super) fn last_probe(&self) -> u64 {
        self.last_probe
    }

    /// Waits for frames from Redis, and returns the messages and what Redis has answered. Cancel-safe.
    ///
    /// `is_fixed_due` is true if Redis may not have answered the commands for the fixed topics yet. A refusal of these
    /// should end the connection, because the plugins cannot work without them. A topic that is listened to may come from a
    /// client, so its refusal must not end the connection. Nor does the refusal of the channel of the probes.
    pub(super) async fn receive<H: Handler>(
        &mut self,
        connection: &mut Connection,
        intake: &Intake<H>,
        is_fixed_due: bool,
    ) -> Result<(Vec<Message<H::Origin>>, Answers), LinkError> {
        let (mut messages, mut answers) = (Vec::new(), Answers::default());
        let each = |frame: Frame<'_>| match frame {
            Frame::Push(push) => match push[..] {
                [Frame::Text(kind), Frame::Text(topic), Frame::Text(body)] if kind == self.words.message => {
                    if let Ok(topic) = str::from_utf8(topic) {
                        // The body is copied, so that a session that reads slowly does not keep a read buffer alive.
                        let body = Bytes::copy_from_slice(body);
                        messages.push(Message { topic: topic.to_owned(), body, cause: None, is_entry: false });
                    }
                }
                [Frame::Text(kind), Frame::Text(topic), ..]
                    if self.words.is_sharded && kind.eq_ignore_ascii_case(self.words.unsubscribe.as_bytes()) =>
                {
                    answers.ended.push(String::from_utf8_lossy(topic).into_owned());
                }
                _ => self.channel = Channel::Answered,
            },
            Frame::Text(text) => {
                while self.pings.pop_front().is_some_and(|ping| ping.as_bytes() != text) {}
                answers.answer(str::from_utf8(text).unwrap_or_default());
            }
            Frame::Error(why) if why.starts_with(CANNOT_SAVE) => {
                answers.answer(&self.pings.pop_front().unwrap_or_default());
            }
            Frame::Error(why) if why.starts_with(NOT_PERMITTED) && self.channel == Channel::Asked => {
                self.channel = Channel::Answered;
                warn_of(&intake.metrics, "the subscription to its own channel", "&gateway:*", why);
            }
            Frame::Error(why) if why.starts_with(NOT_PERMITTED) && (!is_fixed_due || answers.number.is_some()) => {
                listening_refused(why, intake)
            }
            Frame::Error(why) if why.starts_with(MOVED) => answers.misplaced.push(slot::in_error(why)),
            Frame::Error(why) => answers.refused = Some(for_log(why)),
            _ => {}
        };
        let too_large = connection.frames(each).await?;
        if too_large > 0 {
            intake.metrics.dropped("bus_message_too_large", too_large);
            if intake.metrics.log_limits.permit("bus message too large", "") {
                tracing::warn!("bus message dropped: it is larger than `server.max_message_bytes`");
            }
        }
        Ok((messages, answers))
    }

    /// Passes messages to the plugins, and notes the probes among them.
    pub(super) async fn handle<H: Handler>(&mut self, messages: Vec<Message<H::Origin>>, intake: &Intake<H>) {
        // No plugin can hear the channel of the probes, so messages for plugins do not pay for the comparison.
        for Message { topic, body, .. } in intake.handler.messages(messages).await {
            match self.probed.number(&topic, &body) {
                Some(number) => self.last_probe = self.last_probe.max(number),
                // The last plugin, session or group that wanted the topic has ended, and Redis has not carried out the
                // unsubscription yet.
                None => intake.no_subscriber(),
            }
        }
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
