//! Where the calls of a slow plugin run: a thread beside those that serve players, so that no other route waits for it.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, SyncSender},
    },
    thread,
};

/// Calls that may wait.
const QUEUE: usize = 1024;

/// How much less of a processor it gets than the threads that serve players, where both want one.
const NICE: i32 = 10;

/// A call, and what is done with its answer.
pub type Job = Box<dyn FnOnce() + Send>;

/// More waits already than may.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// One plugin's lane, for all its generations, so that a swap does not change the order of messages. Its thread starts with the
/// first job.
#[derive(Debug)]
pub struct Lane {
    plugin: Arc<str>,
    waiting: Arc<AtomicUsize>,
    jobs: Mutex<Option<SyncSender<Job>>>,
}

impl Lane {
    /// A lane with nothing in it.
    #[must_use]
    pub fn new(plugin: Arc<str>) -> Self {
        Self { plugin, waiting: Arc::default(), jobs: Mutex::default() }
    }

    /// Whether a job waits or runs.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Runs the job after those before it.
    ///
    /// # Errors
    /// [`Full`] where it cannot wait.
    pub fn submit(&self, job: Job) -> Result<(), Full> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.is_none() {
            *jobs = self.start().inspect_err(|error| tracing::error!(%error, "no thread for a slow plugin")).ok();
        }
        let sender = jobs.as_ref().ok_or(Full)?;
        self.waiting.fetch_add(1, Ordering::AcqRel);
        sender.try_send(job).map_err(|_| {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            Full
        })
    }

    fn start(&self) -> std::io::Result<SyncSender<Job>> {
        let (sender, jobs) = mpsc::sync_channel::<Job>(QUEUE);
        let waiting = Arc::clone(&self.waiting);
        thread::Builder::new().name(format!("lane-{}", self.plugin)).spawn(move || {
            yield_to_players();
            for job in jobs {
                // The panic hook has told of it; whoever waits for the job sees that it is gone.
                let _ = panic::catch_unwind(AssertUnwindSafe(job));
                waiting.fetch_sub(1, Ordering::AcqRel);
            }
        })?;
        Ok(sender)
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
        let lane = Lane::new("test".into());
        let (done, seen) = mpsc::channel();
        let (hold, held) = mpsc::channel::<()>();
        lane.submit(Box::new(move || held.recv().unwrap())).unwrap();
        lane.submit(Box::new(|| panic!("a defect"))).unwrap();
        let mut accepted = 0;
        while accepted < 2 * QUEUE {
            let done = done.clone();
            if lane.submit(Box::new(move || done.send(accepted).unwrap())).is_err() {
                break;
            }
            accepted += 1;
        }
        assert!((QUEUE - 2..=QUEUE).contains(&accepted), "{accepted}");
        assert!(lane.is_busy());
        hold.send(()).unwrap();
        let order: Vec<_> = seen.iter().take(accepted).collect();
        assert_eq!(order, (0..accepted).collect::<Vec<_>>());
    }
}
