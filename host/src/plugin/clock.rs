//! The clock of deadlines. It ends calls that run for too long, and it stops ticking while there are no calls.

use rustix::time::{ClockId, clock_gettime};
use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};
use wasmtime::Engine;

/// The time between two ticks.
const TICK: Duration = Duration::from_millis(1);

/// The number of consecutive ticks in which no call began or ran, after which the clock stops.
const IDLE_TICKS: u32 = 100;

/// The number of ticks that a call must have seen before its processor time counts. A thread's clock also counts
/// interrupts, and time that the host of a virtual machine takes away. So a call with fewer ticks may look longer than
/// it was.
const MIN_TICKS_SEEN: u32 = 3;

/// The deadline of a call, in processor time. Wall-clock time is not used, because the plugin is not at fault if the
/// system does not run its thread.
///
/// The time counts from the first tick that the guest sees. So the copying of a large payload into the guest does not
/// count. Nearly all calls see no tick, and for them the deadline costs nothing.
#[derive(Debug, Default)]
pub(super) struct Deadline {
    timeout: Duration,
    ticks: u32,
    first_tick_at: Duration,
}

impl Deadline {
    /// Starts the deadline of a new call.
    pub(super) fn set(&mut self, timeout: Duration) {
        *self = Self { timeout, ticks: 0, first_tick_at: Duration::ZERO };
    }

    /// Counts a tick, and returns whether the call has to end. It must be called at each tick that the guest sees.
    pub(super) fn is_over(&mut self) -> bool {
        self.ticks += 1;
        if self.ticks == 1 {
            self.first_tick_at = processor_time();
        }
        self.busy() >= self.timeout
    }

    /// Returns the processor time of the call since its first tick, or 0 if the call saw fewer than [`MIN_TICKS_SEEN`]
    /// ticks.
    pub(super) fn busy(&self) -> Duration {
        if self.ticks < MIN_TICKS_SEEN { Duration::ZERO } else { processor_time().saturating_sub(self.first_tick_at) }
    }
}

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// The handle of the clock's thread. A call uses it to wake the thread up.
#[derive(Debug)]
pub(super) struct Clock {
    state: Arc<State>,
    thread: Thread,
}

#[derive(Debug, Default)]
struct State {
    /// Whether a call began or ran since the last tick.
    called: AtomicBool,
    /// Whether the clock has stopped.
    stopped: AtomicBool,
}

impl Clock {
    /// Starts the clock of an engine. The clock's thread ends when the handle is dropped.
    pub(super) fn start(engine: &Engine) -> std::io::Result<Self> {
        let state = Arc::<State>::default();
        let (ticking, engine) = (Arc::downgrade(&state), engine.clone());
        let handle = thread::Builder::new().name("clock".to_owned()).spawn(move || {
            // If the clock ended, calls that run for too long would not end any more. The clock has no state to lose,
            // so it can be restarted.
            while panic::catch_unwind(AssertUnwindSafe(|| tick(&ticking, &engine))).is_err() {
                tracing::error!(
                    "the clock of deadlines panicked and was restarted, which is a defect: please report it"
                );
                thread::sleep(TICK);
            }
        })?;
        Ok(Self { state, thread: handle.thread().clone() })
    }

    /// Records that a call begins or still runs, and restarts the clock if it has stopped. It must be called before
    /// each call of a guest.
    pub(super) fn call_begins(&self) {
        // Most calls find the flag already set since the last tick. Such calls write no memory that other threads read.
        if !self.state.called.load(Ordering::Relaxed) {
            self.state.called.store(true, Ordering::SeqCst);
            if self.state.stopped.load(Ordering::SeqCst) {
                self.thread.unpark();
            }
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.thread.unpark();
    }
}

fn tick(state: &Weak<State>, engine: &Engine) {
    let mut idle = 0;
    while let Some(state) = state.upgrade() {
        state.stopped.store(false, Ordering::SeqCst);
        engine.increment_epoch();
        idle = if state.called.swap(false, Ordering::SeqCst) { 0 } else { idle + 1 };
        if idle < IDLE_TICKS {
            drop(state);
            thread::sleep(TICK);
            continue;
        }
        idle = 0;
        state.stopped.store(true, Ordering::SeqCst);
        // A thread that sets `called` after this line sees `stopped` and unparks the clock. If a thread has set
        // `called` before, the check below finds the flag set.
        if !state.called.load(Ordering::SeqCst) {
            drop(state);
            thread::park();
        }
    }
}
