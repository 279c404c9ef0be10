//! What the reload thread waits for: a file changed, work on a file is done, or the gateway stops.

use crate::plugin::offload;
use std::{
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Why the thread wakes up. `T` is a piece of work that is done.
#[derive(Debug)]
pub struct Wake<T> {
    /// The gateway stops.
    pub stop: bool,
    /// A look at the files is due.
    pub look: bool,
    /// Work that is done.
    pub done: Vec<T>,
}

/// Where the thread is woken up. Any number of changes of files are one flag, so a flood of them costs nothing.
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
    /// Asks for a look at the files.
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

    /// Waits until the gateway stops, work is done, or a look is due: at `poll`, or, if one was asked for, at `soonest`.
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
        // A panic under the lock leaves a state that is whole.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Inbox<T> {
    /// Runs a piece of work on a thread of its own, with less priority than the threads that serve players. It is done in any case:
    /// `panicked` is the outcome of a panic.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn run(
        self: &Arc<Self>,
        stack_bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
        panicked: T,
    ) -> std::io::Result<()> {
        let inbox = Arc::clone(self);
        let thread = thread::Builder::new().name("load".to_owned()).stack_size(stack_bytes);
        thread.spawn(move || {
            offload::yield_to_players();
            // The panic hook has written what happened to the log.
            inbox.done(panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or(panicked));
        })?;
        Ok(())
    }
}

/// How long the thread sleeps if nothing happens. File systems that send no events are looked at so often.
pub const POLL: Duration = Duration::from_millis(500);

/// The time between two looks, however much changes meanwhile. A file that has not changed for so long is taken to be whole.
pub const PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_changes_is_one_look_and_a_stop_is_heard_at_once() {
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
    fn work_that_panics_is_done_as_well() {
        let inbox = Arc::new(Inbox::default());
        inbox.run(64 << 10, || panic!("on purpose"), "panicked").unwrap();
        let far = Instant::now() + Duration::from_secs(3600);
        assert_eq!(inbox.wait(far, far).done, ["panicked"]);
    }
}
