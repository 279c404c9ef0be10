//! Publish and subscribe: Redis, or an in-process bus of the same meaning. Knows of topics and bytes, and of no session.

mod backoff;
mod embedded;
mod redis;

use crate::{config, metrics::Metrics, throttle::Throttle};
use bytes::Bytes;
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Messages that may wait for the bus,
const QUEUE: usize = 16 * 1024;
/// and the bytes of those that are large.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// Smaller messages are bounded by their number, to as much again: nothing is counted for them that all threads would write.
const LARGE: usize = QUEUE_BYTES / QUEUE;

/// Whoever asked for a publish.
pub trait Origin: Send + 'static {
    /// The bus did not take it, or nobody knows whether it did.
    fn refused(&self, why: &'static str, metrics: &Metrics);
}

/// A message on its way to the bus.
#[derive(Debug)]
pub struct Publication<O> {
    /// Where it goes.
    pub topic: String,
    /// What it is.
    pub body: Bytes,
    /// Who is told where the bus does not take it.
    pub origin: Option<O>,
}

/// What a subscriber does with a message: topic and body in, the number of those who heard it out.
pub type Deliver = Arc<dyn Fn(&str, &Bytes) -> usize + Send + Sync>;

/// A queue of publishes and the state of its bus.
#[must_use]
pub fn channel<O: Origin>(metrics: Arc<Metrics>) -> (Publisher<O>, Intake<O>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let shared = Arc::new(Shared { bytes: AtomicUsize::new(0), away: AtomicBool::new(true) });
    let throttle = Throttle::new();
    (Publisher { sender, shared: Arc::clone(&shared) }, Intake { receiver, shared, metrics, throttle })
}

/// Carries publishes and messages until `stop`, and then what is queued.
pub async fn run<O: Origin>(
    config: Option<config::Redis>,
    intake: Intake<O>,
    topics: watch::Receiver<BTreeSet<String>>,
    deliver: Deliver,
    health: Arc<Health>,
    stop: CancellationToken,
) {
    match config {
        Some(config) => redis::run(config, intake, topics, deliver, health, stop).await,
        None => embedded::run(intake, deliver, health, stop).await,
    }
}

#[derive(Debug)]
struct Shared {
    bytes: AtomicUsize,
    away: AtomicBool,
}

/// Where publishes are queued.
#[derive(Debug)]
pub struct Publisher<O> {
    sender: mpsc::Sender<Publication<O>>,
    shared: Arc<Shared>,
}

impl<O> Publisher<O> {
    /// Room for `count` publishes, or nothing where the queue is full.
    pub fn reserve(&self, count: usize) -> Option<Permits<'_, O>> {
        if count == 0 {
            return Some(Permits { permits: None, shared: &self.shared });
        }
        if self.shared.bytes.load(Ordering::Relaxed) >= QUEUE_BYTES {
            return None;
        }
        let permits = self.sender.try_reserve_many(count).ok()?;
        Some(Permits { permits: Some(permits), shared: &self.shared })
    }
}

/// Room in the queue.
#[derive(Debug)]
pub struct Permits<'a, O> {
    permits: Option<mpsc::PermitIterator<'a, Publication<O>>>,
    shared: &'a Shared,
}

impl<O> Permits<'_, O> {
    /// Queues one of the publishes that there is room for.
    pub fn publish(&mut self, mut publication: Publication<O>) {
        let Some(permit) = self.permits.as_mut().and_then(Iterator::next) else { return };
        if self.shared.away.load(Ordering::Relaxed) {
            // It may wait for long: it shall not keep the whole read buffer that it is a slice of.
            publication.body = Bytes::copy_from_slice(&publication.body);
        }
        if let bytes @ LARGE.. = publication.body.len() {
            self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        permit.send(publication);
    }
}

/// Where a bus takes publishes from.
pub struct Intake<O> {
    receiver: mpsc::Receiver<Publication<O>>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    throttle: Throttle,
}

impl<O: Origin> Intake<O> {
    /// Takes what is queued, up to `most`; nothing only when the queue is closed and empty.
    async fn take(&mut self, batch: &mut Vec<Publication<O>>, most: usize) -> usize {
        let taken = self.receiver.recv_many(batch, most).await;
        let large = batch[batch.len() - taken..].iter().map(|it| it.body.len()).filter(|bytes| *bytes >= LARGE);
        if let bytes @ 1.. = large.sum() {
            self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.metrics.bus_queued.set(i64::try_from(self.receiver.len()).unwrap_or(i64::MAX));
        taken
    }

    fn set_away(&self, away: bool) {
        self.shared.away.store(away, Ordering::Relaxed);
    }

    /// Tells whoever asked that a publish was not taken.
    fn refuse(&self, publication: &Publication<O>, why: &'static str) {
        self.metrics.dropped("bus_unavailable", 1);
        if let Some(held_back) = self.throttle.permit() {
            tracing::warn!(topic = publication.topic, why, held_back, "publish refused");
        }
        if let Some(origin) = &publication.origin {
            self.metrics.refused("unavailable");
            origin.refused(why, &self.metrics);
        }
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
