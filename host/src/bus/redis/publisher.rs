//! The publishing connection. It sends the queued publishes to Redis, and settles each publish with the answer.
//!
//! If the connection breaks, a publish that was under way may or may not have reached Redis. Such a publish is not sent
//! again, because a duplicate message is worse than a refusal that its sender sees. A publish to a stream is sent again,
//! because readers recognize duplicates.

use super::{
    confirmation::Asking,
    connection::Connection,
    error::{LinkError, MOVED, for_log},
    link::Link,
    observer::Observer,
    probe::Prober,
    streams::appends::Appends,
    words::Words,
};
use crate::bus::{
    batch::{Batch, Publication, Publications},
    intake::{Handler, Intake, NotTaken},
    queue::{DRAIN, Queue},
};
use gateway_wire::resp::Frame;
use std::{future, sync::Arc, time::Duration};
use tokio::time;
use tokio_util::sync::CancellationToken;

/// The grace period: how long publishes wait for an unreachable Redis before they are refused. After the grace period,
/// publishes are refused at once until Redis is connected again.
const GRACE: Duration = Duration::from_secs(5);

/// Publishes the queued messages while Redis is connected and the subscriber's confirmation is valid. Refuses the
/// messages if they wait too long.
pub(super) struct Publisher<H: Handler> {
    link: Link,
    subscriber: Asking,
    prober: Prober,
    outgoing: Outgoing<H>,
    appends: Appends<H::Origin>,
}

/// Why publishing pauses although the connection works.
enum Pause {
    /// The queue is closed, and every publish in it is settled.
    Done,
    /// The subscriber's confirmation is not valid any more.
    Unconfirmed,
}

impl<H: Handler> Publisher<H> {
    pub(super) fn new(
        link: Link,
        words: &'static Words,
        (intake, observer): (Arc<Intake<H>>, Arc<dyn Observer<H::Origin>>),
        subscriber: Asking,
        prober: Prober,
    ) -> Self {
        let appends = Appends::new(link.config().streams.clone());
        let outgoing = Outgoing { words, intake, observer, batch: Batch::default(), is_unsettled: false };
        Self { link, subscriber, prober, outgoing, appends }
    }

    /// Publishes until `stop`, and then publishes or refuses the remaining publishes.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = self.publish(&stop) => {}
            () = too_late(&stop) => tracing::warn!(
                "the bus did not take all queued publishes within {DRAIN:?}: the rest is refused"
            ),
        }
        self.appends.refuse_all(&self.outgoing.intake);
        self.outgoing.refuse_all().await;
    }

    async fn publish(&mut self, stop: &CancellationToken) {
        let Self { link, subscriber, prober, outgoing, appends } = self;
        let (intake, queue) = (Arc::clone(&outgoing.intake), Arc::clone(&outgoing.intake.queue));
        let mut connection = None;
        let mut grace = GRACE;
        while !outgoing.is_done() || !appends.is_empty() {
            queue.set_disconnected(true);
            let hangs = subscriber.hangs();
            let mut good = tokio::select! {
                good = ready(link, subscriber, prober, connection.take()) => good,
                () = outgoing.refuse_after(grace, hangs) => return,
                () = appends.refuse_in_time(&intake) => continue,
                () = close_at(stop, &queue) => continue,
            };
            queue.set_disconnected(false);
            link.up();
            grace = GRACE;
            match outgoing.forward(&mut good, (link, subscriber, prober), appends, stop).await {
                Ok(Pause::Done) => return,
                Ok(Pause::Unconfirmed) => connection = Some(good),
                Err(error) => {
                    link.down(&error);
                    if error.is_timeout() {
                        // The timeout was already as long as the answer to a packet may take, so there is no grace
                        // period.
                        grace = Duration::ZERO;
                    }
                }
            }
        }
    }
}

/// Waits for the stop, and then for as long as the queued publishes may take ([`DRAIN`]).
async fn too_late(stop: &CancellationToken) {
    stop.cancelled().await;
    time::sleep(DRAIN).await;
}

/// Waits for the stop, and then closes the queue. Waits forever if the queue is closed already.
async fn close_at<O>(stop: &CancellationToken, queue: &Queue<O>) {
    if queue.is_closed() {
        future::pending().await
    }
    stop.cancelled().await;
    queue.close();
}

/// Waits until there is a connection and the subscriber has confirmed that answers can arrive. Reconnects as often as
/// necessary.
async fn ready(
    link: &mut Link,
    subscriber: &mut Asking,
    prober: &mut Prober,
    mut kept: Option<Connection>,
) -> Connection {
    loop {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => {
                prober.connected();
                let connection = link.connect().await;
                link.waits();
                connection
            }
        };
        tokio::select! {
            () = subscriber.confirmed() => return connection,
            error = broken(&mut connection) => link.down(&error),
        }
    }
}

/// Waits until an idle connection breaks, and returns the error.
async fn broken(connection: &mut Connection) -> LinkError {
    loop {
        if let Err(error) = connection.frames(|_| {}).await {
            return error;
        }
    }
}

/// The publishes that have to be sent or refused.
struct Outgoing<H: Handler> {
    words: &'static Words,
    intake: Arc<Intake<H>>,
    observer: Arc<dyn Observer<H::Origin>>,
    /// The batch that was last taken from the queue.
    batch: Batch<H::Origin>,
    /// Whether the batch still has to be sent or refused.
    is_unsettled: bool,
}

impl<H: Handler> Outgoing<H> {
    /// Returns whether the queue is closed and every publish in it is settled.
    fn is_done(&self) -> bool {
        !self.is_unsettled && self.intake.queue.is_closed() && self.intake.queue.load().publishes == 0
    }

    /// Waits for a batch of publishes. Returns false if the queue is closed and empty.
    async fn take(&mut self) -> bool {
        self.intake.queue.take(&mut self.batch).await;
        self.is_unsettled = !self.batch.is_empty();
        self.is_unsettled
    }

    /// Lets publishes wait until the grace period is over or Redis hangs. Then refuses publishes until the queue is
    /// closed and empty, or until the future is dropped.
    async fn refuse_after(&mut self, grace: Duration, hangs: impl Future<Output = ()>) {
        tokio::select! {
            () = time::sleep(grace) => {}
            () = hangs => {}
        }
        self.refuse().await;
    }

    /// Closes the queue and refuses the publishes in it.
    async fn refuse_all(&mut self) {
        self.intake.queue.close();
        self.refuse().await;
    }

    async fn refuse(&mut self) {
        while self.is_unsettled || self.take().await {
            self.is_unsettled = false;
            self.batch.iter().for_each(|publication| self.intake.refuse(&publication, &NotTaken::NotConnected));
            // Under load the queue may never be empty, and the same task also has to connect.
            tokio::task::yield_now().await;
        }
    }

    /// Publishes one batch after another, and probes at each time that is due, until there is a reason to pause or the
    /// connection breaks.
    async fn forward(
        &mut self,
        connection: &mut Connection,
        (link, subscriber, prober): (&Link, &Asking, &mut Prober),
        appends: &mut Appends<H::Origin>,
        stop: &CancellationToken,
    ) -> Result<Pause, LinkError> {
        let queue = Arc::clone(&self.intake.queue);
        let mut probes = prober.times();
        if !appends.is_empty() {
            appends.resend(connection, link, &self.intake).await?;
        }
        loop {
            if self.is_unsettled {
                if !subscriber.holds() {
                    return Ok(Pause::Unconfirmed);
                }
                self.is_unsettled = false;
                self.intake.refuse_abandoned(&mut self.batch);
                let sent = self.send(connection, link, appends).await;
                appends.end_attempt(&self.intake);
                sent?;
                appends.settle(connection, link, &self.intake).await?;
            }
            tokio::select! {
                biased;
                // A broken connection is noticed before a batch is taken, so that the batch stays in the queue for the
                // next connection.
                heard = connection.frames(|_| {}) => drop(heard?),
                () = close_at(stop, &queue) => {}
                // The probe comes before the batches, because under load there is always a batch.
                _ = probes.tick() => {
                    if !subscriber.holds() {
                        return Ok(Pause::Unconfirmed);
                    }
                    prober.probe(connection, link).await?;
                    appends.probe(connection, link).await?;
                }
                taken = self.take() => if !taken { return Ok(Pause::Done) },
            }
        }
    }

    /// Publishes the batch, and settles each publish with the answer of Redis. When the connection breaks or the future
    /// is dropped, refuses the publishes that have no answer, and leaves those to streams in `appends`.
    async fn send(
        &self,
        connection: &mut Connection,
        link: &Link,
        appends: &mut Appends<H::Origin>,
    ) -> Result<(), LinkError> {
        let Self { words, intake, observer, batch, .. } = self;
        for publication in batch.iter() {
            if appends.takes(publication.topic) {
                appends.push(&publication);
            }
        }
        let mut answers = Answers { intake, observer: &**observer, appends, waiting: batch.iter(), taken: 0 };
        let mut appended = 0;
        for Publication { topic, body, .. } in batch.iter() {
            if answers.appends.takes(topic) {
                answers.appends.write(appended, connection).await?;
                appended += 1;
            } else if words.is_sharded {
                connection.large_command(&[words.publish.as_bytes(), topic.as_bytes(), body]).await?;
            } else {
                connection.publish(topic, body).await?;
            }
        }
        connection.flush().await?;
        let mut unsettled = batch.len();
        while unsettled > 0 {
            let each = |frame: Frame<'_>| {
                answers.settle(&frame);
                unsettled = unsettled.saturating_sub(1);
            };
            link.answers(connection, each).await?;
        }
        Ok(())
    }
}

/// The answers of Redis to a batch.
struct Answers<'a, H: Handler> {
    intake: &'a Intake<H>,
    observer: &'a dyn Observer<H::Origin>,
    appends: &'a mut Appends<H::Origin>,
    /// The publishes that Redis has not answered yet.
    waiting: Publications<'a, H::Origin>,
    taken: usize,
}

impl<H: Handler> Answers<'_, H> {
    /// Settles the next publish with an answer. Redis answers a publish with the number of subscribers that received
    /// it.
    fn settle(&mut self, answer: &Frame<'_>) {
        let Some(publication) = self.waiting.next() else { return };
        if self.appends.takes(publication.topic) {
            self.appends.answered(answer, self.intake);
            return;
        }
        match answer {
            Frame::Integer(receivers) => {
                self.taken += 1;
                if *receivers == 0 {
                    self.intake.unheard(&publication);
                } else {
                    Intake::<H>::end_trace(&publication, None);
                }
            }
            Frame::Error(error) if error.starts_with(MOVED) && self.observer.take_back(&publication) => {}
            Frame::Error(error) => {
                if error.starts_with(b"CLUSTERDOWN ") {
                    self.observer.misplaced(None);
                }
                if self.intake.metrics.log_limits.permit("publish refused by redis", "") {
                    tracing::warn!(topic = publication.topic, error = for_log(error), "redis refused a publish");
                }
                self.intake.refuse(&publication, &NotTaken::Refused);
            }
            _ => self.intake.refuse(&publication, &NotTaken::Unintelligible),
        }
    }
}

/// Accounts for every publish of the batch, even if the batch ends with a broken connection, at the deadline of a stop,
/// or in a panic.
impl<H: Handler> Drop for Answers<'_, H> {
    fn drop(&mut self) {
        self.intake.taken(self.taken);
        for publication in self.waiting.by_ref().filter(|publication| !self.appends.takes(publication.topic)) {
            self.intake.refuse(&publication, &NotTaken::Unknown);
        }
    }
}
