//! The log of a running gateway on stderr. A thread of its own writes the lines, so that no thread that serves players
//! waits for whoever reads them.

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};
use std::{
    fmt, io,
    sync::{Mutex, OnceLock, PoisonError, mpsc},
    thread,
    time::Duration,
};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// The maximum number of lines that wait to be written. Further lines are dropped and counted.
const MAX_WAITING: usize = 8192;

/// The time that the lines which wait may take when the process ends.
const FINISH: Duration = Duration::from_secs(1);

/// The thread that writes, until the process ends.
static WRITER: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// The number of dropped lines.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Starts the thread that writes, and returns a writer that never waits for it.
#[must_use]
pub fn start() -> NonBlocking {
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MAX_WAITING).thread_name("log");
    let (lines, writer) = builder.finish(io::stderr());
    let _ = DROPPED.set(lines.error_counter());
    *WRITER.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
    lines
}

/// Writes the lines that wait, and calls `last`, which may write one more. Lines that this does not write within
/// [`FINISH`] are lost, and so are later ones.
pub fn finish(last: impl FnOnce() + Send + 'static) {
    let writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (finished, outcome) = mpsc::channel::<()>();
    // If nobody reads stderr, the thread would wait for ever. If the system refuses the thread, the channel is closed.
    let _ = thread::Builder::new().name("last lines".to_owned()).spawn(move || {
        drop(writer);
        last();
        drop(finished);
    });
    // The channel is closed once everything is written.
    let _ = outcome.recv_timeout(FINISH);
}

/// The counter of lines that were dropped, because nobody has read the log fast enough.
#[derive(Debug)]
pub(super) struct Dropped;

impl TypedMetric for Dropped {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Dropped {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        let dropped = DROPPED.get().map_or(0, ErrorCounter::dropped_lines);
        encoder.encode_counter::<NoLabelSet, u64, u64>(&(dropped as u64), None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}
