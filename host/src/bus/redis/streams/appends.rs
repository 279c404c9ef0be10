//! The publishes to streams that Redis has not accepted yet. They outlive a connection, because they can be sent again: a
//! reader recognizes an entry that was written twice by its id.
//!
//! They are sent again in their order and before anything newer. Readers drop an entry if they have seen a later one of
//! the same writer in the same stream, so there an entry must never come after a later one, or it would be lost.

#[cfg(test)]
mod tests;

use super::{ID, PAYLOAD};
use crate::{
    bus::{
        batch::{OwnedPublication, Publication},
        intake::{Handler, Intake, NotTaken},
        redis::{
            connection::Connection,
            error::{LinkError, for_log},
            link::Link,
        },
    },
    config,
};
use gateway_wire::resp::Frame;
use std::{
    collections::{HashMap, VecDeque},
    future,
    time::Duration,
};
use tokio::time::{self, Instant};
use uuid::Uuid;

/// How long publishes to streams are sent again before they are refused.
const GRACE: Duration = Duration::from_secs(5);

/// The longest time that one `WAIT` takes.
const MAX_REPLICA_WAIT: Duration = Duration::from_millis(500);

/// The errors after which the same command may succeed, there or at another server.
const PASSING: [&[u8]; 10] = [
    b"LOADING",
    b"READONLY",
    b"MASTERDOWN",
    b"NOREPLICAS",
    b"CLUSTERDOWN",
    b"TRYAGAIN",
    b"BUSY",
    b"UNBLOCKED",
    b"MOVED",
    b"ASK",
];

/// The publishes to streams that Redis has not accepted yet. `O` is the type of a publish's origin.
pub(in super::super) struct Appends<O> {
    streams: config::Streams,
    /// The name of this process as a writer.
    writer: String,
    /// The number of the last publish to a stream.
    last: u64,
    /// The publishes in the order of their numbers.
    unaccepted: VecDeque<Append<O>>,
    /// The number of publishes at the front that Redis has answered in this attempt.
    answered: usize,
    /// Why Redis took no entries in this attempt, if that may pass.
    passing: Option<String>,
    /// When the publishes are refused, if there are any that an attempt did not settle.
    refused_at: Option<Instant>,
    /// Whether the last `WAIT` found too few replicas.
    is_short: bool,
}

struct Append<O> {
    id: String,
    publication: OwnedPublication<O>,
    outcome: Outcome,
}

/// What is known about a publish after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It may or may not have been written.
    Unknown,
    /// It was written, but maybe not at enough replicas.
    Written,
    /// It was written as often as the configuration demands.
    Accepted,
    /// It was not written, and may be if it is sent again.
    Passing,
    /// It was not written, and its sender has the answer.
    Refused,
}

impl<O: Copy> Appends<O> {
    pub(in super::super) fn new(streams: config::Streams) -> Self {
        Self {
            streams,
            writer: Uuid::new_v4().to_string(),
            last: 0,
            unaccepted: VecDeque::new(),
            answered: 0,
            passing: None,
            refused_at: None,
            is_short: false,
        }
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.unaccepted.is_empty()
    }

    /// Returns whether a topic is a stream.
    pub(in super::super) fn takes(&self, topic: &str) -> bool {
        self.streams.contains(topic)
    }

    /// Adds a publish, and gives it its number. All earlier ones are settled or in the same attempt.
    pub(in super::super) fn push(&mut self, publication: &Publication<'_, O>) {
        self.last += 1;
        self.unaccepted.push_back(Append {
            id: format!("{}-{}", self.writer, self.last),
            publication: publication.to_owned(),
            outcome: Outcome::Unknown,
        });
    }

    /// Queues the command for one of the publishes on the connection.
    pub(in super::super) async fn write(&self, index: usize, connection: &mut Connection) -> Result<(), LinkError> {
        let Some(Append { id, publication, .. }) = self.unaccepted.get(index) else { return Ok(()) };
        let OwnedPublication { topic, body, .. } = publication;
        let max_len = self.streams.max_len.to_string();
        let [topic, max_len, id] = [topic, max_len.as_str(), id].map(str::as_bytes);
        let (id_field, payload_field) = (ID.as_bytes(), PAYLOAD.as_bytes());
        connection
            .large_command(&[b"XADD", topic, b"MAXLEN", b"~", max_len, b"*", id_field, id, payload_field, body])
            .await
    }

    /// Handles the answer of Redis to the next command.
    pub(in super::super) fn answered<H: Handler<Origin = O>>(&mut self, answer: &Frame<'_>, intake: &Intake<H>) {
        let Some(append) = self.unaccepted.get_mut(self.answered) else { return };
        self.answered += 1;
        append.outcome = match answer {
            Frame::Text(_) if self.streams.replicas > 0 => Outcome::Written,
            Frame::Text(_) => {
                intake.taken(1);
                Intake::<H>::end_trace(&append.publication.borrow(), None);
                Outcome::Accepted
            }
            Frame::Error(error) if PASSING.iter().any(|code| error.starts_with(code)) => {
                self.passing.get_or_insert_with(|| for_log(error));
                Outcome::Passing
            }
            Frame::Error(error) => {
                if intake.metrics.log_limits.permit("entry refused by redis", "") {
                    tracing::warn!(
                        topic = &*append.publication.topic,
                        error = for_log(error),
                        "redis refused an entry of a stream"
                    );
                }
                intake.refuse(&append.publication.borrow(), &why(error));
                Outcome::Refused
            }
            _ => {
                intake.refuse(&append.publication.borrow(), &NotTaken::Unintelligible);
                Outcome::Refused
            }
        };
    }

    /// Ends an attempt, whether Redis has answered everything or not. What stays is sent again.
    pub(in super::super) fn end_attempt<H: Handler<Origin = O>>(&mut self, intake: &Intake<H>) {
        let may_be_written = |append: &Append<O>| !matches!(append.outcome, Outcome::Passing | Outcome::Refused);
        // If a later entry may be in the same stream, readers would drop an earlier one as a duplicate. Usually none has an
        // error that may pass, and there is nothing to compare.
        let mut last_written = HashMap::new();
        if self.unaccepted.iter().any(|append| append.outcome == Outcome::Passing) {
            let written = self.unaccepted.iter().enumerate().filter(|(_, append)| may_be_written(append));
            last_written.extend(written.map(|(index, append)| (append.publication.topic.clone(), index)));
        }
        for (index, append) in self.unaccepted.iter_mut().enumerate() {
            let is_overtaken = last_written.get(&append.publication.topic).is_some_and(|last| index < *last);
            if append.outcome == Outcome::Passing && is_overtaken {
                intake.refuse(&append.publication.borrow(), &NotTaken::Refused);
                append.outcome = Outcome::Refused;
            }
        }
        self.unaccepted.retain(|append| !matches!(append.outcome, Outcome::Accepted | Outcome::Refused));
        self.answered = 0;
        self.begin_grace();
    }

    fn begin_grace(&mut self) {
        if self.unaccepted.is_empty() {
            self.refused_at = None;
        } else {
            self.refused_at.get_or_insert_with(|| Instant::now() + GRACE);
        }
    }

    /// Sends again what is not accepted yet, and settles it.
    ///
    /// # Errors
    /// Returns an error if the connection breaks, or if the server does not take entries at present.
    pub(in super::super) async fn resend<H: Handler<Origin = O>>(
        &mut self,
        connection: &mut Connection,
        link: &Link,
        intake: &Intake<H>,
    ) -> Result<(), LinkError> {
        self.unaccepted.iter_mut().for_each(|append| append.outcome = Outcome::Unknown);
        let sent = self.send_all(connection, link, intake).await;
        self.end_attempt(intake);
        sent?;
        self.settle(connection, link, intake).await
    }

    async fn send_all<H: Handler<Origin = O>>(
        &mut self,
        connection: &mut Connection,
        link: &Link,
        intake: &Intake<H>,
    ) -> Result<(), LinkError> {
        tracing::info!(entries = self.unaccepted.len(), "entries of streams are sent again");
        for index in 0..self.unaccepted.len() {
            self.write(index, connection).await?;
        }
        connection.flush().await?;
        while self.answered < self.unaccepted.len() {
            link.answers(connection, |answer| self.answered(&answer, intake)).await?;
        }
        Ok(())
    }

    /// Settles what was written in this attempt: waits for the replicas, if the configuration demands some.
    ///
    /// # Errors
    /// Returns an error if the connection breaks, or if the server does not take entries at present.
    pub(in super::super) async fn settle<H: Handler<Origin = O>>(
        &mut self,
        connection: &mut Connection,
        link: &Link,
        intake: &Intake<H>,
    ) -> Result<(), LinkError> {
        if let Some(why) = self.passing.take() {
            return Err(LinkError::Refused { command: "XADD", why });
        }
        let Some(deadline) = self.refused_at else { return Ok(()) };
        loop {
            if self.have_replicas(connection, link).await? {
                intake.taken(self.unaccepted.len());
                self.unaccepted.drain(..).for_each(|append| Intake::<H>::end_trace(&append.publication.borrow(), None));
                break;
            }
            // Once they are missing, each batch would wait for the whole time, and the queue would fill up.
            if self.is_short || Instant::now() >= deadline {
                self.is_short = true;
                link.short(self.streams.replicas);
                self.refuse(intake, &NotTaken::FewReplicas);
                break;
            }
        }
        self.begin_grace();
        Ok(())
    }

    /// Asks again for the replicas if there were too few. Then the publishing connection works again.
    pub(in super::super) async fn probe(&mut self, connection: &mut Connection, link: &Link) -> Result<(), LinkError> {
        if self.is_short {
            self.have_replicas(connection, link).await?;
        }
        Ok(())
    }

    /// Returns whether enough replicas have everything that was written on this connection.
    async fn have_replicas(&mut self, connection: &mut Connection, link: &Link) -> Result<bool, LinkError> {
        let wait = (connection.timeout() / 4).min(MAX_REPLICA_WAIT).as_millis().to_string();
        connection.command(&[b"WAIT", self.streams.replicas.to_string().as_bytes(), wait.as_bytes()]);
        connection.flush().await?;
        let mut answer = Err(String::new());
        let each = |frame: Frame<'_>| match frame {
            Frame::Integer(replicas) => answer = Ok(replicas),
            Frame::Error(error) => answer = Err(for_log(error)),
            _ => {}
        };
        link.answers(connection, each).await?;
        let replicas = answer.map_err(|why| LinkError::Refused { command: "WAIT", why })?;
        let are_enough = u64::try_from(replicas).is_ok_and(|replicas| replicas >= self.streams.replicas);
        if are_enough && self.is_short {
            self.is_short = false;
            link.up();
        }
        Ok(are_enough)
    }

    /// Waits until the grace period is over, and refuses the publishes. Never returns. Cancel-safe.
    pub(in super::super) async fn refuse_in_time<H: Handler<Origin = O>>(&mut self, intake: &Intake<H>) {
        if let Some(at) = self.refused_at {
            time::sleep_until(at).await;
            self.refuse_all(intake);
        }
        future::pending().await
    }

    /// Refuses all publishes, also those of an attempt that was broken off.
    pub(in super::super) fn refuse_all<H: Handler<Origin = O>>(&mut self, intake: &Intake<H>) {
        self.end_attempt(intake);
        self.refuse(intake, &NotTaken::Unknown);
        self.begin_grace();
    }

    fn refuse<H: Handler<Origin = O>>(&mut self, intake: &Intake<H>, why: &NotTaken<'_>) {
        self.unaccepted.drain(..).for_each(|append| intake.refuse(&append.publication.borrow(), why));
    }
}

/// Returns the reason for the sender of a publish that Redis refused for good.
fn why(error: &[u8]) -> NotTaken<'static> {
    let code = error.split(|byte| *byte == b' ').next().unwrap_or_default();
    match code {
        b"WRONGTYPE" => NotTaken::NotAStream,
        b"NOPERM" => NotTaken::Forbidden,
        b"OOM" => NotTaken::Full,
        _ => NotTaken::Refused,
    }
}
