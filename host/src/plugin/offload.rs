//! The offload thread of a plugin. Slow calls run on it, so that threads that serve players do not wait for them.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, SyncSender},
    },
    thread,
};

/// The maximum number of jobs in the queue of an offload thread.
const MAX_QUEUED_JOBS: usize = 1024;

/// The number of further jobs for entries of streams. The bus hands over fewer of them at once.
const MAX_QUEUED_ENTRIES: usize = 1024;

/// The maximum number of payload bytes that the queued and running jobs of an offload thread keep alive.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// The increment of the thread's nice value, so that the scheduler prefers threads that serve players.
const NICE: i32 = 10;

/// A unit of work for an offload thread, such as a call of the plugin together with the handling of its answer.
pub type Job = Box<dyn FnOnce() + Send>;

/// What a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// A message of the bus or a timer, which no later one may overtake.
    Ordered,
    /// An entry of a stream. It is as [`Ordered`](Self::Ordered), and it is queued even if the queue is full, because the
    /// bus hands over entries only while it is not.
    Entry,
    /// Anything else.
    Other,
}

/// The error for a job that is not queued: too many jobs or bytes are queued already, or the thread cannot be started.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// The offload thread of one plugin. All generations of the plugin share the thread, so that a swap does not reorder
/// bus messages. The thread starts with the first job.
#[derive(Debug)]
pub struct OffloadThread {
    plugin: Arc<str>,
    queued: Arc<Queued>,
    jobs: Mutex<Option<SyncSender<QueuedJob>>>,
}

/// A job in the queue, with its load.
struct QueuedJob {
    load: Load,
    job: Job,
}

/// The load that one job adds to the queue.
#[derive(Clone, Copy)]
struct Load {
    /// 1 for a job that no later message may overtake, otherwise 0.
    messages: usize,
    /// The number of payload bytes that the job keeps alive.
    bytes: usize,
}

/// The total load of the jobs that wait or run.
#[derive(Debug, Default)]
struct Queued {
    jobs: AtomicUsize,
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

impl OffloadThread {
    /// Returns an offload thread without jobs. The thread is not started yet.
    #[must_use]
    pub fn new(plugin: Arc<str>) -> Self {
        Self { plugin, queued: Arc::default(), jobs: Mutex::default() }
    }

    /// Returns whether any job waits or runs.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.queued.jobs.load(Ordering::Acquire) > 0
    }

    /// Returns whether the job of a bus message waits or runs. No other message may overtake such a message.
    #[must_use]
    pub fn has_messages(&self) -> bool {
        self.queued.messages.load(Ordering::Acquire) > 0
    }

    /// Returns whether the queue takes no more jobs but those of entries.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queued.jobs.load(Ordering::Relaxed) > MAX_QUEUED_JOBS
            || self.queued.bytes.load(Ordering::Relaxed) >= MAX_QUEUED_BYTES
    }

    /// Queues a job that keeps a payload of `bytes` alive. Jobs run in the order in which they are queued.
    ///
    /// # Errors
    /// Returns [`Full`] if too many jobs or bytes are queued already, or if the thread cannot be started.
    pub fn submit(&self, kind: JobKind, bytes: usize, job: Job) -> Result<(), Full> {
        let load = Load { messages: usize::from(kind != JobKind::Other), bytes };
        // The lock makes the check and the addition of bytes one step, so that the limit on bytes holds.
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.is_none() {
            *jobs = self
                .start()
                .inspect_err(|error| tracing::error!(%error, "cannot start the offload thread of a plugin"))
                .ok();
        }
        let sender = jobs.as_ref().ok_or(Full)?;
        let Queued { jobs, bytes, .. } = &*self.queued;
        // One of the jobs runs, and does not wait.
        let is_full = jobs.load(Ordering::Relaxed) > MAX_QUEUED_JOBS
            || bytes.load(Ordering::Relaxed) + load.bytes > MAX_QUEUED_BYTES;
        if is_full && kind != JobKind::Entry {
            return Err(Full);
        }
        self.queued.add(load);
        sender.try_send(QueuedJob { load, job }).map_err(|_| {
            self.queued.remove(load);
            Full
        })
    }

    fn start(&self) -> std::io::Result<SyncSender<QueuedJob>> {
        let (sender, jobs) = mpsc::sync_channel::<QueuedJob>(MAX_QUEUED_JOBS + MAX_QUEUED_ENTRIES);
        let queued = Arc::clone(&self.queued);
        thread::Builder::new().name(format!("offload-{}", self.plugin)).spawn(move || {
            lower_thread_priority();
            for QueuedJob { load, job } in jobs {
                // The panic hook logs the panic. The panic drops the job, so a session that waits for the job's result
                // gets an error.
                let _ = panic::catch_unwind(AssertUnwindSafe(job));
                queued.remove(load);
            }
        })?;
        Ok(sender)
    }
}

impl Queued {
    fn add(&self, load: Load) {
        self.jobs.fetch_add(1, Ordering::AcqRel);
        self.messages.fetch_add(load.messages, Ordering::AcqRel);
        self.bytes.fetch_add(load.bytes, Ordering::Relaxed);
    }

    fn remove(&self, load: Load) {
        self.bytes.fetch_sub(load.bytes, Ordering::Relaxed);
        self.messages.fetch_sub(load.messages, Ordering::AcqRel);
        self.jobs.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Lowers the priority of the current thread, and of every thread that it starts later, below the priority of threads
/// that serve players.
pub fn lower_thread_priority() {
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "the priority of a thread cannot be lowered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_in_order_and_are_bounded_and_survive_a_panic() {
        let offload_thread = OffloadThread::new("test".into());
        let (done, seen) = mpsc::channel();
        let (hold, held) = mpsc::channel::<()>();
        offload_thread.submit(JobKind::Other, 0, Box::new(move || held.recv().unwrap())).unwrap();
        offload_thread.submit(JobKind::Other, 0, Box::new(|| panic!("a defect"))).unwrap();
        let mut accepted = 0;
        while accepted < 2 * MAX_QUEUED_JOBS {
            let done = done.clone();
            if offload_thread.submit(JobKind::Other, 0, Box::new(move || done.send(accepted).unwrap())).is_err() {
                break;
            }
            accepted += 1;
        }
        assert!((MAX_QUEUED_JOBS - 2..=MAX_QUEUED_JOBS).contains(&accepted), "{accepted}");
        assert!(offload_thread.is_busy());
        hold.send(()).unwrap();
        let order: Vec<_> = seen.iter().take(accepted).collect();
        assert_eq!(order, (0..accepted).collect::<Vec<_>>());
    }

    #[test]
    fn an_entry_of_a_stream_is_queued_even_if_the_queue_is_full() {
        let offload_thread = OffloadThread::new("test".into());
        let (hold, held) = mpsc::channel::<()>();
        offload_thread.submit(JobKind::Entry, 0, Box::new(move || held.recv().unwrap())).unwrap();
        assert!(!offload_thread.is_full());
        offload_thread.submit(JobKind::Entry, MAX_QUEUED_BYTES, Box::new(|| ())).unwrap();
        assert!(offload_thread.is_full());
        let (done, seen) = mpsc::channel();
        for kind in [JobKind::Ordered, JobKind::Other] {
            assert_eq!(offload_thread.submit(kind, 1, Box::new(|| ())), Err(Full));
        }
        for _ in 0..MAX_QUEUED_JOBS {
            let done = done.clone();
            offload_thread.submit(JobKind::Entry, 1, Box::new(move || done.send(()).unwrap())).unwrap();
        }
        hold.send(()).unwrap();
        seen.iter().take(MAX_QUEUED_JOBS).for_each(drop);
        while offload_thread.is_busy() {
            thread::yield_now();
        }
        assert!(!offload_thread.is_full() && !offload_thread.has_messages());
    }

    #[test]
    fn queued_payload_bytes_are_bounded() {
        let offload_thread = OffloadThread::new("test".into());
        let (hold, held) = mpsc::channel::<()>();
        offload_thread.submit(JobKind::Other, 0, Box::new(move || held.recv().unwrap())).unwrap();
        let quarter = MAX_QUEUED_BYTES / 4;
        let (done, seen) = mpsc::channel();
        for _ in 0..4 {
            let done = done.clone();
            offload_thread.submit(JobKind::Other, quarter, Box::new(move || done.send(()).unwrap())).unwrap();
        }
        assert_eq!(offload_thread.submit(JobKind::Other, 1, Box::new(|| ())), Err(Full));
        hold.send(()).unwrap();
        seen.iter().take(4).for_each(drop);
        while offload_thread.is_busy() {
            thread::yield_now();
        }
        assert_eq!(offload_thread.submit(JobKind::Other, MAX_QUEUED_BYTES, Box::new(|| ())), Ok(()));
    }
}
