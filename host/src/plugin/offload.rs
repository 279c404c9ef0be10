//! The offload thread of a plugin: slow calls run on it, so that no thread that serves players waits for them.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, SyncSender},
    },
    thread,
};

/// The number of calls that may wait.
const MAX_QUEUED_CALLS: usize = 1024;

/// The bytes of payloads that may wait in those calls.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// The nice value that is added on the thread: threads that serve players go first.
const NICE: i32 = 10;

/// A call, and what is done with its answer.
pub type Job = Box<dyn FnOnce() + Send>;

/// Too many calls or bytes wait already.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// One plugin's offload thread, for all its generations, so that a swap does not change the order of messages. The thread starts with the
/// first job.
#[derive(Debug)]
pub struct OffloadThread {
    plugin: Arc<str>,
    queued: Arc<Queued>,
    jobs: Mutex<Option<SyncSender<QueuedCall>>>,
}

/// A job that waits in the queue.
struct QueuedCall {
    load: Load,
    job: Job,
}

/// What a job adds to the queue's load.
#[derive(Clone, Copy)]
struct Load {
    messages: usize,
    bytes: usize,
}

/// The jobs that wait or run.
#[derive(Debug, Default)]
struct Queued {
    jobs: AtomicUsize,
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

impl OffloadThread {
    /// A thread without jobs, which is not started yet.
    #[must_use]
    pub fn new(plugin: Arc<str>) -> Self {
        Self { plugin, queued: Arc::default(), jobs: Mutex::default() }
    }

    /// Whether a job waits or runs.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.queued.jobs.load(Ordering::Acquire) > 0
    }

    /// Whether the job of a bus message waits or runs, which no other message may overtake.
    #[must_use]
    pub fn has_messages(&self) -> bool {
        self.queued.messages.load(Ordering::Acquire) > 0
    }

    /// Runs the job after those before it. It keeps a payload of `bytes` alive until then.
    ///
    /// # Errors
    /// [`Full`] if too many calls or bytes wait already.
    pub fn submit(&self, bytes: usize, job: Job) -> Result<(), Full> {
        self.queue(Load { messages: 0, bytes }, job)
    }

    /// The same for the job of a bus message.
    ///
    /// # Errors
    /// [`Full`] if too many calls or bytes wait already.
    pub fn submit_message(&self, bytes: usize, job: Job) -> Result<(), Full> {
        self.queue(Load { messages: 1, bytes }, job)
    }

    fn queue(&self, load: Load, job: Job) -> Result<(), Full> {
        // Under the lock, so that the bound on bytes holds.
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.is_none() {
            *jobs = self.start().inspect_err(|error| tracing::error!(%error, "no offload thread for a plugin")).ok();
        }
        let sender = jobs.as_ref().ok_or(Full)?;
        if self.queued.bytes.load(Ordering::Relaxed) + load.bytes > MAX_QUEUED_BYTES {
            return Err(Full);
        }
        self.queued.add(load);
        sender.try_send(QueuedCall { load, job }).map_err(|_| {
            self.queued.remove(load);
            Full
        })
    }

    fn start(&self) -> std::io::Result<SyncSender<QueuedCall>> {
        let (sender, jobs) = mpsc::sync_channel::<QueuedCall>(MAX_QUEUED_CALLS);
        let queued = Arc::clone(&self.queued);
        thread::Builder::new().name(format!("offload-{}", self.plugin)).spawn(move || {
            yield_to_players();
            for QueuedCall { load, job } in jobs {
                // The panic hook logs the panic; the session that waits for the job sees that it is gone.
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

/// Lets the threads that serve players go first, from here on and for every thread that this one starts.
pub fn yield_to_players() {
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
        offload_thread.submit(0, Box::new(move || held.recv().unwrap())).unwrap();
        offload_thread.submit(0, Box::new(|| panic!("a defect"))).unwrap();
        let mut accepted = 0;
        while accepted < 2 * MAX_QUEUED_CALLS {
            let done = done.clone();
            if offload_thread.submit(0, Box::new(move || done.send(accepted).unwrap())).is_err() {
                break;
            }
            accepted += 1;
        }
        assert!((MAX_QUEUED_CALLS - 2..=MAX_QUEUED_CALLS).contains(&accepted), "{accepted}");
        assert!(offload_thread.is_busy());
        hold.send(()).unwrap();
        let order: Vec<_> = seen.iter().take(accepted).collect();
        assert_eq!(order, (0..accepted).collect::<Vec<_>>());
    }

    #[test]
    fn the_bytes_that_wait_are_bounded() {
        let offload_thread = OffloadThread::new("test".into());
        let (hold, held) = mpsc::channel::<()>();
        offload_thread.submit(0, Box::new(move || held.recv().unwrap())).unwrap();
        let quarter = MAX_QUEUED_BYTES / 4;
        let (done, seen) = mpsc::channel();
        for _ in 0..4 {
            let done = done.clone();
            offload_thread.submit(quarter, Box::new(move || done.send(()).unwrap())).unwrap();
        }
        assert_eq!(offload_thread.submit(1, Box::new(|| ())), Err(Full));
        hold.send(()).unwrap();
        seen.iter().take(4).for_each(drop);
        while offload_thread.is_busy() {
            thread::yield_now();
        }
        assert_eq!(offload_thread.submit(MAX_QUEUED_BYTES, Box::new(|| ())), Ok(()));
    }
}
