//! The publishing connection.
//!
//! A publish that was under way when the connection broke may or may not have reached Redis. It is not sent again, since a doubled
//! message is worse than an honest refusal to its sender.

use super::{
    confirmation::Asking,
    connection::{Connection, LinkError, shown},
    link::Link,
};
use crate::bus::{
    DRAIN, Handler, Intake, NotTaken,
    batch::{Batch, Publication, Publications},
    queue::Queue,
};
use gateway_wire::resp::Frame;
use std::{future, sync::Arc, time::Duration};
use tokio::time;
use tokio_util::sync::CancellationToken;

/// How long publishes wait for a Redis that is gone, before they are refused. Until it is back, later ones are refused at once.
const GRACE: Duration = Duration::from_secs(5);

/// Publishes what is queued while Redis is connected and the subscriber has confirmed, and refuses it when that takes too long.
pub(super) struct Publisher<H: Handler> {
    link: Link,
    subscriber: Asking,
    outgoing: Outgoing<H>,
}

/// Why publishing pauses, although the connection is good.
enum Pause {
    /// The queue is closed, and everything in it is settled.
    Done,
    /// The subscriber's confirmation does not hold any more.
    Unconfirmed,
}

impl<H: Handler> Publisher<H> {
    pub(super) fn new(link: Link, intake: Arc<Intake<H>>, subscriber: Asking) -> Self {
        Self { link, subscriber, outgoing: Outgoing { intake, batch: Batch::default(), is_held: false } }
    }

    /// Publishes until `stop`, and then what is left.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = self.publish(&stop) => {}
            () = too_late(&stop) => tracing::warn!("the bus did not take what was queued within {DRAIN:?}: it is refused"),
        }
        self.outgoing.refuse_all().await;
    }

    async fn publish(&mut self, stop: &CancellationToken) {
        let Self { link, subscriber, outgoing } = self;
        let queue = Arc::clone(&outgoing.intake.queue);
        let mut connection = None;
        let mut grace = GRACE;
        while !outgoing.is_done() {
            queue.set_away(true);
            let hangs = subscriber.hangs();
            let mut good = tokio::select! {
                good = ready(link, subscriber, connection.take()) => good,
                () = outgoing.refuse_after(grace, hangs) => return,
                () = close_at(stop, &queue) => continue,
            };
            queue.set_away(false);
            link.up();
            grace = GRACE;
            match outgoing.forward(&mut good, subscriber, stop).await {
                Ok(Pause::Done) => return,
                Ok(Pause::Unconfirmed) => connection = Some(good),
                Err(error) => {
                    link.down(&error);
                    if error.is_timeout() {
                        // It has been waited for already, for as long as the answer to a packet may take.
                        grace = Duration::ZERO;
                    }
                }
            }
        }
    }
}

/// Waits until what is queued should have been published.
async fn too_late(stop: &CancellationToken) {
    stop.cancelled().await;
    time::sleep(DRAIN).await;
}

/// Waits for the stop, and closes the queue. Never ends if it is closed.
async fn close_at<O>(stop: &CancellationToken, queue: &Queue<O>) {
    if queue.is_closed() {
        future::pending().await
    }
    stop.cancelled().await;
    queue.close();
}

/// Tries until there is a connection, and the subscriber has confirmed that answers can arrive.
async fn ready(link: &mut Link, subscriber: &mut Asking, mut kept: Option<Connection>) -> Connection {
    loop {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => link.connect().await,
        };
        tokio::select! {
            () = subscriber.confirmed() => return connection,
            error = broken(&mut connection) => link.down(&error),
        }
    }
}

/// Waits until a connection on which nothing is under way breaks.
async fn broken(connection: &mut Connection) -> LinkError {
    loop {
        if let Err(error) = connection.frames(|_| {}).await {
            return error;
        }
    }
}

/// What is to be published.
struct Outgoing<H: Handler> {
    intake: Arc<Intake<H>>,
    /// What was taken from the queue last.
    batch: Batch<H::Origin>,
    /// The batch is not settled: it is to be sent or refused.
    is_held: bool,
}

impl<H: Handler> Outgoing<H> {
    /// Whether the queue is closed, and everything that was in it is settled.
    fn is_done(&self) -> bool {
        !self.is_held && self.intake.queue.is_closed() && self.intake.queue.is_empty()
    }

    /// Waits until there is something to publish. False if the queue is closed and empty.
    async fn take(&mut self) -> bool {
        self.intake.queue.take(&mut self.batch).await;
        self.is_held = !self.batch.is_empty();
        self.is_held
    }

    /// Lets publishes wait for the grace period, but not for a Redis that hangs. Then it refuses them until it is dropped or the queue is closed
    /// and empty.
    async fn refuse_after(&mut self, grace: Duration, hangs: impl Future<Output = ()>) {
        tokio::select! {
            () = time::sleep(grace) => {}
            () = hangs => {}
        }
        self.refuse().await;
    }

    /// Closes the queue and refuses what is in it.
    async fn refuse_all(&mut self) {
        self.intake.queue.close();
        self.refuse().await;
    }

    async fn refuse(&mut self) {
        while self.is_held || self.take().await {
            self.is_held = false;
            self.batch.iter().for_each(|publication| self.intake.refuse(&publication, &NotTaken::Away));
            // Under load there is always more, and the same task has to see to the connection.
            tokio::task::yield_now().await;
        }
    }

    /// Publishes what is queued, all that is there at once, until there is a reason to pause or the connection breaks.
    async fn forward(
        &mut self,
        connection: &mut Connection,
        subscriber: &Asking,
        stop: &CancellationToken,
    ) -> Result<Pause, LinkError> {
        let queue = Arc::clone(&self.intake.queue);
        let max_silence = connection.max_silence();
        loop {
            if self.is_held {
                if !subscriber.holds() {
                    return Ok(Pause::Unconfirmed);
                }
                self.is_held = false;
                send(connection, &self.batch, &self.intake).await?;
            }
            tokio::select! {
                biased;
                // Before anything is taken: what waits for the next connection is not lost with this one.
                heard = connection.frames(|_| {}) => drop(heard?),
                () = close_at(stop, &queue) => {}
                taken = self.take() => if !taken { return Ok(Pause::Done) },
                () = time::sleep(max_silence) => connection.ping().await?,
            }
        }
    }
}

/// Publishes a batch, and settles each publish with what Redis answers to it. What is not settled in the end is refused.
async fn send<H: Handler>(
    connection: &mut Connection,
    batch: &Batch<H::Origin>,
    intake: &Intake<H>,
) -> Result<(), LinkError> {
    let mut answers = Answers { intake, waiting: batch.iter(), taken: 0 };
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
}

impl<H: Handler> Answers<'_, H> {
    /// Redis answers a publish with the number of subscribers that received it.
    fn settle(&mut self, answer: &Frame<'_>) {
        let Some(publication) = self.waiting.next() else { return };
        match answer {
            Frame::Integer(receivers) => {
                self.taken += 1;
                if *receivers == 0 {
                    self.intake.unheard(&publication);
                }
            }
            Frame::Error(error) => {
                if self.intake.metrics.log_limits.permit("publish refused by redis", "") {
                    tracing::warn!(topic = publication.topic, error = shown(error), "redis refused a publish");
                }
                self.intake.refuse(&publication, &NotTaken::Refused);
            }
            _ => self.intake.refuse(&publication, &NotTaken::Unintelligible),
        }
    }
}

/// However the batch ends, by a broken connection, at the deadline of a stop or in a panic, every publish of it is accounted for.
impl<H: Handler> Drop for Answers<'_, H> {
    fn drop(&mut self) {
        self.intake.taken(self.taken);
        for publication in self.waiting.by_ref() {
            self.intake.refuse(&publication, &NotTaken::Unknown);
        }
    }
}
