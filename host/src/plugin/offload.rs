//! The offload thread of a plugin. Slow calls run on it, so that threads that serve players do not wait for them.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Sender},
    },
    thread,
};

/// The maximum number of jobs in the queue of an offload thread, without those for entries of streams.
const MAX_QUEUED_JOBS: usize = 1024;

/// The number of jobs for entries of streams from which the bus reads no further ones.
const MAX_QUEUED_ENTRIES: usize = 1024;

/// The maximum number of payload bytes that the queued and running jobs of an offload thread keep alive. Those for
/// entries of streams are counted separately.
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
    /// An entry of a stream. It is as [`Ordered`](Self::Ordered), and it is always queued, because the bus has taken it from
    /// Redis already. The bus takes entries only while there are few.
    Entry,
    /// The start of instances in place of those that have failed. It is always queued, because calls would lack the
    /// instances. A generation queues one at a time.
    Refill,
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
    jobs: Mutex<Option<Sender<QueuedJob>>>,
}

/// A job in the queue, with the number of payload bytes that it keeps alive.
struct QueuedJob {
    kind: JobKind,
    bytes: usize,
    job: Job,
}

/// The jobs that wait or run. Messages and other jobs do not use up what entries of streams may take, nor the other way
/// round. Otherwise a flood of messages would hold up the streams.
#[derive(Debug, Default)]
struct Queued {
    entries: Load,
    others: Load,
    /// The number of jobs that no later message may overtake.
    messages: AtomicUsize,
}

/// The load of jobs.
#[derive(Debug, Default)]
struct Load {
    jobs: AtomicUsize,
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
        let Queued { entries, others, .. } = &*self.queued;
        [entries, others].iter().any(|load| load.jobs.load(Ordering::Acquire) > 0)
    }

    /// Returns whether the job of a bus message waits or runs. No other message may overtake such a message.
    #[must_use]
    pub fn has_messages(&self) -> bool {
        self.queued.messages.load(Ordering::Acquire) > 0
    }

    /// Returns whether the bus may read further entries of streams for the plugin.
    #[must_use]
    pub fn takes_entries(&self) -> bool {
        let Load { jobs, bytes } = &self.queued.entries;
        jobs.load(Ordering::Relaxed) < MAX_QUEUED_ENTRIES && bytes.load(Ordering::Relaxed) < MAX_QUEUED_BYTES
    }

    /// Queues a job that keeps a payload of `bytes` alive. Jobs run in the order in which they are queued.
    ///
    /// # Errors
    /// Returns [`Full`] if too many jobs or bytes are queued already and the job is not of a kind that is always queued, or
    /// if the thread cannot be started.
    pub fn submit(&self, kind: JobKind, bytes: usize, job: Job) -> Result<(), Full> {
        // The lock makes the check and the addition of bytes one step, so that the limit on bytes holds.
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.is_none() {
            *jobs = self
                .start()
                .inspect_err(|error| tracing::error!(%error, "cannot start the offload thread of a plugin"))
                .ok();
        }
        let sender = jobs.as_ref().ok_or(Full)?;
        let others = &self.queued.others;
        // One of the jobs runs, and does not wait.
        let is_full = others.jobs.load(Ordering::Relaxed) > MAX_QUEUED_JOBS
            || others.bytes.load(Ordering::Relaxed) + bytes > MAX_QUEUED_BYTES;
        if is_full && matches!(kind, JobKind::Ordered | JobKind::Other) {
            return Err(Full);
        }
        self.queued.add(kind, bytes);
        sender.send(QueuedJob { kind, bytes, job }).map_err(|_| {
            self.queued.remove(kind, bytes);
            Full
        })
    }

    fn start(&self) -> std::io::Result<Sender<QueuedJob>> {
        // The counters bound the queue.
        let (sender, jobs) = mpsc::channel::<QueuedJob>();
        let queued = Arc::clone(&self.queued);
        thread::Builder::new().name(format!("offload-{}", self.plugin)).spawn(move || {
            lower_thread_priority();
            for QueuedJob { kind, bytes, job } in jobs {
                // The panic hook logs the panic. The panic drops the job, so a session that waits for the job's result
                // gets an error.
                let _ = panic::catch_unwind(AssertUnwindSafe(job));
                queued.remove(kind, bytes);
            }
        })?;
        Ok(sender)
    }
}

impl Queued {
    fn add(&self, kind: JobKind, bytes: usize) {
        let load = self.load_of(kind);
        load.jobs.fetch_add(1, Ordering::AcqRel);
        self.messages.fetch_add(messages(kind), Ordering::AcqRel);
        load.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove(&self, kind: JobKind, bytes: usize) {
        let load = self.load_of(kind);
        load.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.messages.fetch_sub(messages(kind), Ordering::AcqRel);
        load.jobs.fetch_sub(1, Ordering::AcqRel);
    }

    fn load_of(&self, kind: JobKind) -> &Load {
        if kind == JobKind::Entry { &self.entries } else { &self.others }
    }
}

/// Returns 1 for a job that no later message may overtake, and 0 for any other.
fn messages(kind: JobKind) -> usize {
    usize::from(matches!(kind, JobKind::Ordered | JobKind::Entry))
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
        // Without it, a generation would lack the instance until the next call that fails.
        offload_thread.submit(JobKind::Refill, 0, Box::new(move || done.send(accepted).unwrap())).unwrap();
        assert!(offload_thread.is_busy() && !offload_thread.has_messages());
        hold.send(()).unwrap();
        let order: Vec<_> = seen.iter().take(accepted + 1).collect();
        assert_eq!(order, (0..=accepted).collect::<Vec<_>>());
    }

    #[test]
    fn every_entry_of_a_stream_is_queued_and_takes_nothing_from_other_jobs() {
        let offload_thread = OffloadThread::new("test".into());
        let (hold, held) = mpsc::channel::<()>();
        offload_thread.submit(JobKind::Other, 0, Box::new(move || held.recv().unwrap())).unwrap();
        let (done, seen) = mpsc::channel();
        let submit = |kind| {
            let done = done.clone();
            offload_thread.submit(kind, 1, Box::new(move || done.send(kind).unwrap()))
        };
        // Many streams may bring more entries at once than the bus waits for.
        for i in 0..3 * MAX_QUEUED_ENTRIES {
            assert_eq!(offload_thread.takes_entries(), i < MAX_QUEUED_ENTRIES);
            submit(JobKind::Entry).unwrap();
        }
        let others = (0..).take_while(|_| submit(JobKind::Ordered).is_ok()).count();
        assert_eq!((others, submit(JobKind::Other)), (MAX_QUEUED_JOBS, Err(Full)));
        hold.send(()).unwrap();
        let order: Vec<_> = seen.iter().take(3 * MAX_QUEUED_ENTRIES + others).collect();
        assert!(order.is_sorted_by_key(|kind| *kind == JobKind::Ordered), "an entry was overtaken");
        while offload_thread.is_busy() {
            thread::yield_now();
        }
        assert!(offload_thread.takes_entries() && !offload_thread.has_messages());
    }

    #[test]
    fn other_jobs_take_nothing_from_entries_of_streams() {
        let offload_thread = OffloadThread::new("test".into());
        let (hold, held) = mpsc::channel::<()>();
        offload_thread.submit(JobKind::Ordered, MAX_QUEUED_BYTES, Box::new(move || held.recv().unwrap())).unwrap();
        assert_eq!(offload_thread.submit(JobKind::Ordered, 1, Box::new(|| ())), Err(Full));
        assert!(offload_thread.takes_entries());
        offload_thread.submit(JobKind::Entry, MAX_QUEUED_BYTES, Box::new(|| ())).unwrap();
        assert!(!offload_thread.takes_entries());
        hold.send(()).unwrap();
        while !offload_thread.takes_entries() {
            thread::yield_now();
        }
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
