//! Publish and subscribe: Redis, or an in-process bus of the same meaning. Knows of topics and bytes, and of no session.

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

/// How long publishing what is queued may take when the gateway stops. What is left is refused.
pub const DRAIN: Duration = Duration::from_secs(5);

/// The bytes of a topic that the sender of a publish is answered with.
const MAX_TOPIC_BYTES: usize = 256;

/// What the bus reports to.
pub trait Handler: Send + Sync + 'static {
    /// Where a publish comes from.
    type Origin: Copy + Send + Sync + 'static;

    /// A message on one of the topics. Returns the number of plugins that heard it. `cause` is the packet that it was published for, if that came
    /// from this process.
    fn message(&self, topic: &str, body: &Bytes, cause: Option<&Self::Origin>) -> usize;

    /// Whether the policy that the publish came from still serves. Otherwise nobody would hear an answer to it.
    fn is_served(&self, origin: &Self::Origin) -> bool;

    /// A publish was not taken, or nobody listens to it, or nobody knows what became of it.
    fn refused(&self, origin: &Self::Origin, why: &str);
}

/// Why a publish reached nobody. The text is what its sender is answered with.
#[derive(Debug, thiserror::Error)]
enum NotTaken<'a> {
    #[error("the bus is away")]
    Away,
    #[error("the bus broke off: the message may or may not have been taken")]
    Unknown,
    #[error("the bus refused the message")]
    Refused,
    #[error("the bus gave no answer that can be understood")]
    Unintelligible,
    #[error("the plugin of the route was taken away before the message was sent")]
    Abandoned,
    #[error("no backend listens on {}", text::bounded_to(MAX_TOPIC_BYTES, .0))]
    Unheard(&'a str),
}

impl NotTaken<'_> {
    /// The reason in log lines, of which there is one a second for each.
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

/// Carries publishes and messages until `stop`, and then what is queued.
///
/// Every publish is accounted for: the bus took it and somebody heard it, or nobody did, or it is counted as dropped. In the two latter cases its
/// origin, if it has one, is answered.
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

/// Where a bus takes publishes from and where it takes messages to.
struct Intake<H: Handler> {
    queue: Arc<Queue<H::Origin>>,
    handler: H,
    metrics: Arc<Metrics>,
}

impl<H: Handler> Intake<H> {
    /// Counts publishes that the bus has taken, including those that nobody heard.
    fn taken(&self, count: usize) {
        self.metrics.published.inc_by(count as u64);
    }

    /// Accounts for a publish that the bus has taken, and that nobody heard.
    fn unheard(&self, publication: &Publication<'_, H::Origin>) {
        self.metrics.unheard.inc();
        self.answer(publication, &NotTaken::Unheard(publication.topic));
    }

    /// Accounts for a publish that was not taken.
    fn refuse(&self, publication: &Publication<'_, H::Origin>, why: &NotTaken<'_>) {
        self.metrics.dropped("bus_unavailable", 1);
        self.answer(publication, why);
    }

    /// Refuses those publishes of a batch whose policy was taken away while they waited.
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
        // A message of a plugin's own that nobody listens to is no news: it may be meant for whoever comes.
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

/// Whether the bus is connected, and if not, why.
#[derive(Debug)]
pub struct Health {
    metrics: Arc<Metrics>,
    /// Why a direction is not connected, by direction.
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
    /// A bus that is not connected yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let connecting = || Some("connecting".to_owned());
        Self { metrics, errors: Mutex::new([connecting(), connecting()]) }
    }

    /// Why the bus is not connected.
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
