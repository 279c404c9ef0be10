//! The inbox of the reload thread. It wakes the thread up when a file has changed, when work on a file is done, or when
//! the gateway stops.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// The longest time between two checks. On file systems that send no events, a change is noticed within this time.
pub const MAX_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The shortest time between two checks, however many changes there are. A file that has not changed for this time
/// counts as completely written.
pub const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// The reasons why the thread wakes up. `T` is the type of finished work.
#[derive(Debug)]
pub struct Wake<T> {
    /// Whether the gateway stops.
    pub stop: bool,
    /// Whether a check of the files is due.
    pub look: bool,
    /// The work that was finished since the last wake-up.
    pub done: Vec<T>,
}

/// The inbox of the thread. All changes of files set the same flag, so a flood of changes is coalesced into one check.
#[derive(Debug)]
pub struct Inbox<T> {
    pending: Mutex<Wake<T>>,
    changed: Condvar,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self { pending: Mutex::new(Wake { stop: false, look: false, done: Vec::new() }), changed: Condvar::new() }
    }
}

impl<T> Inbox<T> {
    /// Requests a check of the files.
    pub fn look(&self) {
        let mut pending = self.pending();
        if !pending.look {
            pending.look = true;
            self.changed.notify_one();
        }
    }

    /// Tells the thread to end.
    pub fn stop(&self) {
        self.pending().stop = true;
        self.changed.notify_one();
    }

    fn done(&self, work: T) {
        self.pending().done.push(work);
        self.changed.notify_one();
    }

    /// Waits until the gateway stops, work is done, or a check is due. A requested check is due at `soonest`. If no
    /// check was requested, the next one is due at `poll`.
    pub fn wait(&self, soonest: Instant, poll: Instant) -> Wake<T> {
        let mut pending = self.pending();
        loop {
            let now = Instant::now();
            let due = if pending.look { soonest } else { poll };
            let look = now >= due;
            if look || pending.stop || !pending.done.is_empty() {
                pending.look &= !look;
                return Wake { stop: pending.stop, look, done: std::mem::take(&mut pending.done) };
            }
            pending = self.changed.wait_timeout(pending, due - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn pending(&self) -> MutexGuard<'_, Wake<T>> {
        // No code panics in the middle of a change under this lock, so a poisoned state is still consistent.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Inbox<T> {
    /// Runs a piece of work on a new thread, with the priority of the current thread. The inbox always receives an
    /// outcome: if the work panics, it receives `panicked`.
    ///
    /// # Errors
    /// Returns an error if no thread can be started.
    pub fn run(
        self: &Arc<Self>,
        stack_bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
        panicked: T,
    ) -> std::io::Result<()> {
        let inbox = Arc::clone(self);
        let thread = thread::Builder::new().name("load".to_owned()).stack_size(stack_bytes);
        thread.spawn(move || {
            // The panic hook has logged the panic.
            inbox.done(panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or(panicked));
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_changes_is_coalesced_and_a_stop_wakes_at_once() {
        let inbox = Arc::new(Inbox::<()>::default());
        let flood = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || (0..100_000).for_each(|_| inbox.look()))
        };
        let began = Instant::now();
        let (mut looks, mut wakes) = (0, 0);
        while began.elapsed() < Duration::from_millis(200) {
            let now = Instant::now();
            let wake = inbox.wait(now + Duration::from_millis(50), now + Duration::from_millis(50));
            wakes += 1;
            looks += usize::from(wake.look);
        }
        flood.join().unwrap();
        assert!(looks == wakes && looks <= 4, "{looks} looks, {wakes} wakes");

        let far = Instant::now() + Duration::from_secs(3600);
        inbox.look();
        let stopper = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || inbox.stop())
        };
        let wake = inbox.wait(far, far);
        assert!(wake.stop && !wake.look);
        stopper.join().unwrap();
    }

    #[test]
    fn work_that_panics_still_has_an_outcome() {
        let inbox = Arc::new(Inbox::default());
        inbox.run(64 << 10, || panic!("on purpose"), "panicked").unwrap();
        let far = Instant::now() + Duration::from_secs(3600);
        assert_eq!(inbox.wait(far, far).done, ["panicked"]);
    }
}
