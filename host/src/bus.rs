//! Publish and subscribe over Redis, or over an embedded bus in the same process.
//!
//! The queue of publishes, the connections to Redis, the embedded bus, and the accounting for each publish belong here.
//! This module and its submodules may know topics, bytes, `config`, `sync` and `telemetry`.
//! They must not know sessions, packets, plugins or routing. They report to the rest of the gateway through [`Handler`]
//! only.

mod backoff;
mod batch;
mod embedded;
mod queue;
mod redis;

pub use queue::{Full, Load, Permit, Queue, Share};

use crate::{
    config,
    telemetry::{metrics::Metrics, text},
};
use batch::{Batch, Publication};
use bytes::Bytes;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long the bus may take to publish the queued messages when the gateway stops. After that, the remaining publishes
/// are refused.
pub const DRAIN: Duration = Duration::from_secs(5);

/// The maximum number of bytes of a topic in the answer to the sender of a publish.
const MAX_TOPIC_BYTES: usize = 256;

/// The part of the gateway that receives messages and refused publishes from the bus.
pub trait Handler: Send + Sync + 'static {
    /// The type that identifies the packet that caused a publish.
    type Origin: Copy + Send + Sync + 'static;

    /// Handles a message on a topic. Returns the number of plugins that subscribe to the topic. `cause` is the packet
    /// that caused the message. Only the embedded bus knows the cause.
    fn message(&self, topic: &str, body: &Bytes, cause: Option<&Self::Origin>) -> usize;

    /// Returns whether a plugin still serves the route of the packet that caused a publish. If none does, nothing in
    /// this gateway would receive an answer to the publish.
    fn is_served(&self, origin: &Self::Origin) -> bool;

    /// Handles a publish that the bus did not take, that has no subscriber, or whose outcome is unknown.
    fn refused(&self, origin: &Self::Origin, why: &str);
}

/// Why a publish reached no subscriber, or may have reached none. The text is the answer to the sender of the packet.
#[derive(Debug, thiserror::Error)]
enum NotTaken<'a> {
    #[error("the bus is away")]
    Away,
    #[error("the bus broke off: the message may or may not have been taken")]
    Unknown,
    #[error("the bus refused the message")]
    Refused,
    #[error("the bus gave an answer that the gateway does not understand")]
    Unintelligible,
    #[error("the plugin of the route was taken away before the message was sent")]
    Abandoned,
    #[error("no backend listens on {}", text::bounded_to(MAX_TOPIC_BYTES, .0))]
    Unheard(&'a str),
}

impl NotTaken<'_> {
    /// Returns a short name of the reason. The log has at most one line a second for each reason.
    fn kind(&self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Unknown => "broken off",
            Self::Refused => "refused",
            Self::Unintelligible => "unintelligible",
            Self::Abandoned => "abandoned",
            Self::Unheard(_) => "unheard",
        }
    }
}

/// Carries publishes and messages until `stop`, and then publishes or refuses the queued publishes.
///
/// Every publish has one of three outcomes: it reaches a subscriber, it has no subscriber, or it is counted as dropped.
/// In the last two cases, the origin of the publish is answered if there is one.
pub async fn run<H: Handler>(
    config: Option<config::Redis>,
    queue: Arc<Queue<H::Origin>>,
    topics: watch::Receiver<BTreeSet<String>>,
    handler: H,
    health: Arc<Health>,
    stop: CancellationToken,
) {
    let intake = Arc::new(Intake { queue, handler, metrics: Arc::clone(&health.metrics) });
    match config {
        Some(config) => redis::run(config, intake, topics, health, stop).await,
        None => embedded::run(&intake, health, stop).await,
    }
}

/// The source of publishes and the receiver of messages, for either kind of bus.
struct Intake<H: Handler> {
    queue: Arc<Queue<H::Origin>>,
    handler: H,
    metrics: Arc<Metrics>,
}

impl<H: Handler> Intake<H> {
    /// Counts publishes that the bus has taken, including those without a subscriber.
    fn taken(&self, count: usize) {
        self.metrics.published.inc_by(count as u64);
    }

    /// Accounts for a publish that the bus has taken and that has no subscriber.
    fn unheard(&self, publication: &Publication<'_, H::Origin>) {
        self.metrics.unheard.inc();
        self.answer(publication, &NotTaken::Unheard(publication.topic));
    }

    /// Accounts for a publish that was not taken, or whose outcome is unknown.
    fn refuse(&self, publication: &Publication<'_, H::Origin>, why: &NotTaken<'_>) {
        self.metrics.dropped("bus_unavailable", 1);
        self.answer(publication, why);
    }

    /// Refuses the publishes of a batch whose plugin was taken away while they waited.
    fn refuse_abandoned(&self, batch: &mut Batch<H::Origin>) {
        batch.withdraw(|publication| {
            let is_served = publication.origin.is_none_or(|origin| self.handler.is_served(origin));
            if !is_served {
                self.refuse(&publication, &NotTaken::Abandoned);
            }
            !is_served
        });
    }

    fn answer(&self, publication: &Publication<'_, H::Origin>, why: &NotTaken<'_>) {
        // A publish that no packet caused may well have no subscriber, so that case is not logged.
        let is_news = publication.origin.is_some() || !matches!(why, NotTaken::Unheard(_));
        if is_news && self.metrics.log_limits.permit("publish refused", why.kind()) {
            tracing::warn!(topic = publication.topic, %why, "publish refused");
        }
        if let Some(origin) = publication.origin {
            self.metrics.refused("unavailable");
            self.handler.refused(origin, &why.to_string());
        }
    }
}

/// The state of the connections of the bus: whether they work, and if not, why.
#[derive(Debug)]
pub struct Health {
    metrics: Arc<Metrics>,
    /// Why each direction is not connected, indexed by [`Direction`].
    errors: Mutex<[Option<String>; 2]>,
}

/// The two directions of a bus.
#[derive(Clone, Copy, Debug)]
enum Direction {
    Publish = 0,
    Subscribe = 1,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        }
    }
}

impl Health {
    /// Returns the state of a bus that is not connected yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let connecting = || Some("connecting".to_owned());
        Self { metrics, errors: Mutex::new([connecting(), connecting()]) }
    }

    /// Returns why the bus is not connected, or `None` if it is connected.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).iter().flatten().next().cloned()
    }

    fn is_down(&self, direction: Direction) -> bool {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)[direction as usize].is_some()
    }

    fn set(&self, direction: Direction, error: Option<String>) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors[direction as usize] = error;
        self.metrics.bus_connected.set(i64::from(errors.iter().all(Option::is_none)));
    }
}
