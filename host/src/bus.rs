//! Publish and subscribe: Redis, or an in-process bus of the same meaning. Knows of topics and bytes, and of no session.

mod backoff;
mod batch;
mod embedded;
mod queue;
mod redis;

pub use queue::{Full, Load, Permit, Queue, Share};

use crate::{config, telemetry::metrics::Metrics};
use batch::Publication;
use bytes::Bytes;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Whom the bus tells what it has to tell.
pub trait Handler: Send + Sync + 'static {
    /// Where a publish comes from.
    type Origin: Copy + Send + Sync;

    /// A message on one of the topics. Returns the number of plugins that heard it. `cause` is the packet that it was published for, if that came
    /// from this process.
    fn message(&self, topic: &str, body: &Bytes, cause: Option<&Self::Origin>) -> usize;

    /// The bus did not take a publish, or nobody knows whether it did.
    fn refused(&self, origin: &Self::Origin, why: &str);
}

/// Carries publishes and messages until `stop`, and then what is queued.
pub async fn run<H: Handler>(
    config: Option<config::Redis>,
    queue: Arc<Queue<H::Origin>>,
    topics: watch::Receiver<BTreeSet<String>>,
    handler: H,
    health: Arc<Health>,
    stop: CancellationToken,
) {
    let intake = Intake { queue, handler, metrics: Arc::clone(&health.metrics) };
    match config {
        Some(config) => redis::run(config, &intake, topics, health, stop).await,
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
    /// Tells whoever asked that a publish was not taken.
    fn refuse(&self, publication: &Publication<'_, H::Origin>, why: &'static str) {
        self.metrics.dropped("bus_unavailable", 1);
        if self.metrics.log_limits.permit("publish refused", why) {
            tracing::warn!(topic = publication.topic, why, "publish refused");
        }
        if let Some(origin) = publication.origin {
            self.metrics.refused("unavailable");
            self.handler.refused(origin, why);
        }
    }

    /// Takes note of publishes that the bus has taken, and of how many of them nobody heard.
    fn taken(&self, count: usize, unheard: usize) {
        self.metrics.published.inc_by(count as u64);
        self.metrics.unheard.inc_by(unheard as u64);
    }
}

/// Whether the bus is connected, and if not, why.
#[derive(Debug)]
pub struct Health {
    metrics: Arc<Metrics>,
    /// To publish, to subscribe.
    errors: Mutex<[Option<String>; 2]>,
}

/// The two directions of a bus.
#[derive(Clone, Copy, Debug)]
enum Direction {
    Publish = 0,
    Subscribe = 1,
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
