//! Redis: one connection to publish and one to subscribe, each connected anew whenever it breaks.
//!
//! The subscriber's messages are handled inside the connection's own task (RESP3 pushes, so Redis 6 or later): no queue stands
//! between, so a slow policy makes Redis wait instead of growing this process's memory.
//!
//! A publish that was under way when the connection broke may or may not have reached Redis. It is not sent again, since a doubled
//! message is worse than an honest refusal: its sender is told.

use super::{Deliver, Direction, Health, Intake, Origin, Publication, backoff::Backoff};
use crate::config;
use bytes::Bytes;
use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, RedisError, RedisResult,
    Value,
    aio::{AsyncPushSender, MultiplexedConnection, SendError},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    time,
};
use tokio_util::sync::CancellationToken;

/// Publishes that go out as one write.
const BATCH: usize = 1024;
/// How long publishes wait for a connection that broke, before they are refused; until it is back, later ones are refused at once.
const GRACE: Duration = Duration::from_secs(5);
/// How long Redis may take to accept a connection or to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
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
    async fn connect(&self, pushes: &Pushes) -> MultiplexedConnection {
        let mut backoff = Backoff::new();
        loop {
            match self.attempt(pushes.clone()).await {
                Ok(connection) => return connection,
                Err(error) => self.down(&error),
            }
            time::sleep(backoff.pause()).await;
        }
    }

    async fn attempt(&self, pushes: Pushes) -> RedisResult<MultiplexedConnection> {
        let settings = self.config.url.as_str().into_connection_info()?;
        let mut redis = settings.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        if let Some(password) = &self.config.password {
            redis = redis.set_password(password);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT))
            .set_push_sender(pushes);
        let client = Client::open(settings.set_redis_settings(redis))?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        // A server that wants a password lets anybody connect.
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        Ok(connection)
    }

    fn up(&self) {
        tracing::info!(redis = self.config.shown(), direction = ?self.direction, "bus connected");
        self.health.set(self.direction, None);
    }

    fn down(&self, error: &RedisError) {
        let redis = self.config.shown();
        tracing::warn!(redis, direction = ?self.direction, %error, "bus not connected, trying again");
        self.health.set(self.direction, Some(format!("redis {redis}: {error}")));
    }
}

async fn publish<O: Origin>(link: Link, mut intake: Intake<O>, stop: CancellationToken) {
    loop {
        intake.set_away(true);
        let pushes = Pushes::new(None);
        let connection = tokio::select! {
            connection = link.connect(&pushes) => connection,
            () = refuse_late(&mut intake) => return,
            () = stop.cancelled() => return refuse_all(&mut intake).await,
        };
        intake.set_away(false);
        link.up();
        match forward(connection, &mut intake, &pushes.broken, &stop).await {
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
    mut connection: MultiplexedConnection,
    intake: &mut Intake<O>,
    broken: &Notify,
    stop: &CancellationToken,
) -> RedisResult<()> {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            biased;
            // Before anything is taken: what waits for the next connection is not lost with this one.
            () = broken.notified() => return Err(broken_off()),
            taken = intake.take(&mut batch, BATCH) => if taken == 0 { return Ok(()) },
            () = stop.cancelled(), if !intake.receiver.is_closed() => {
                intake.receiver.close();
                continue;
            }
            () = time::sleep(PING) => {
                redis::cmd("PING").query_async::<()>(&mut connection).await?;
                continue;
            }
        }
        let outcome = send(&mut connection, &batch).await;
        if let Ok(answers) = &outcome {
            for (publication, answer) in batch.iter().zip(answers) {
                settle(intake, publication, answer);
            }
        } else {
            for publication in &batch {
                intake.refuse(publication, "the bus broke off: the message may or may not have been taken");
            }
        }
        batch.clear();
        outcome?;
    }
}

async fn send<O>(connection: &mut MultiplexedConnection, batch: &[Publication<O>]) -> RedisResult<Vec<Value>> {
    let mut pipeline = redis::Pipeline::with_capacity(batch.len());
    for publication in batch {
        pipeline.cmd("PUBLISH").arg(&publication.topic).arg(&publication.body[..]);
    }
    connection.send_packed_commands(&pipeline, 0, batch.len()).await
}

/// Redis answers a publish with the number of those who received it.
fn settle<O: Origin>(intake: &Intake<O>, publication: &Publication<O>, answer: &Value) {
    match answer {
        Value::Int(receivers) => {
            intake.metrics.published.inc();
            if *receivers == 0 {
                intake.metrics.unheard.inc();
            }
        }
        Value::ServerError(error) => {
            tracing::debug!(?error, "redis refused a publish");
            intake.refuse(publication, "the bus refused the message");
        }
        _ => intake.refuse(publication, "the bus gave no answer that can be understood"),
    }
}

async fn subscribe(link: Link, mut topics: watch::Receiver<BTreeSet<String>>, deliver: Deliver) {
    loop {
        let pushes = Pushes::new(Some(Arc::clone(&deliver)));
        let connection = link.connect(&pushes).await;
        let error = follow(&link, connection, &mut topics, &pushes.broken).await;
        link.down(&error);
        // A Redis that accepts and then breaks off shall not be asked without a pause.
        time::sleep(Backoff::new().pause()).await;
    }
}

/// Keeps the subscriptions what the plugins want, until the connection breaks.
async fn follow(
    link: &Link,
    mut connection: MultiplexedConnection,
    topics: &mut watch::Receiver<BTreeSet<String>>,
    broken: &Notify,
) -> RedisError {
    let mut current = BTreeSet::new();
    loop {
        let wanted = topics.borrow_and_update().clone();
        if let Err(error) = change(&mut connection, &current, &wanted).await {
            return error;
        }
        if current.is_empty() || link.health.error().is_some() {
            link.up();
        }
        current = wanted;
        loop {
            tokio::select! {
                changed = topics.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => std::future::pending().await,
                },
                () = broken.notified() => return broken_off(),
                () = time::sleep(PING) => {
                    if let Err(error) = redis::cmd("PING").query_async::<()>(&mut connection).await {
                        return error;
                    }
                }
            }
        }
    }
}

async fn change(
    connection: &mut MultiplexedConnection,
    current: &BTreeSet<String>,
    wanted: &BTreeSet<String>,
) -> RedisResult<()> {
    let added: Vec<_> = wanted.difference(current).collect();
    let removed: Vec<_> = current.difference(wanted).collect();
    if !added.is_empty() {
        connection.subscribe(&added).await?;
        tracing::info!(topics = ?added, "subscribed");
    }
    if !removed.is_empty() {
        connection.unsubscribe(&removed).await?;
        tracing::info!(topics = ?removed, "unsubscribed");
    }
    Ok(())
}

fn broken_off() -> RedisError {
    RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
}

/// What a connection calls for each push.
#[derive(Clone)]
struct Pushes {
    deliver: Option<Deliver>,
    broken: Arc<Notify>,
}

impl Pushes {
    fn new(deliver: Option<Deliver>) -> Self {
        Self { deliver, broken: Arc::default() }
    }
}

impl AsyncPushSender for Pushes {
    fn send(&self, push: PushInfo) -> Result<(), SendError> {
        match (push.kind, push.data.as_slice(), &self.deliver) {
            (PushKind::Message, [Value::BulkString(topic), Value::BulkString(body)], Some(deliver)) => {
                if let Ok(topic) = std::str::from_utf8(topic) {
                    deliver(topic, &Bytes::copy_from_slice(body));
                }
            }
            (PushKind::Disconnection, _, _) => self.broken.notify_one(),
            _ => {}
        }
        Ok(())
    }
}
