//! The clock of deadlines: it ends calls that run too long. It stands still while there are no calls.

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

/// The clock stands still after this many ticks in which no call began or ran.
const IDLE_TICKS: u32 = 100;

/// The ticks that a call has to be seen at before its processor time counts. A thread's clock also counts interrupts and the time that the host of a
/// virtual machine takes away, so a shorter call can look long.
const SEEN: u32 = 3;

/// The deadline of a call, in processor time: a thread that the system does not let run is not the plugin's fault, and neither is the
/// copying of a large payload. It counts from the first tick, so that a call which sees none, as nearly all, costs nothing.
#[derive(Debug, Default)]
pub(super) struct Deadline {
    timeout: Duration,
    ticks: u32,
    began: Duration,
}

impl Deadline {
    /// Sets the deadline of the call that begins.
    pub(super) fn set(&mut self, timeout: Duration) {
        *self = Self { timeout, ticks: 0, began: Duration::ZERO };
    }

    /// Whether the call has to end. To be called at each tick that the guest sees.
    pub(super) fn is_over(&mut self) -> bool {
        self.ticks += 1;
        if self.ticks == 1 {
            self.began = processor_time();
        }
        self.busy() >= self.timeout
    }

    /// The processor time of the call, or 0 if it was seen at too few ticks.
    pub(super) fn busy(&self) -> Duration {
        if self.ticks < SEEN { Duration::ZERO } else { processor_time().saturating_sub(self.began) }
    }
}

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// The handle of the clock's thread, which calls wake up.
#[derive(Debug)]
pub(super) struct Clock {
    state: Arc<State>,
    thread: Thread,
}

#[derive(Debug, Default)]
struct State {
    called: AtomicBool,
    still: AtomicBool,
}

impl Clock {
    /// Starts the clock of an engine. Its thread ends when the handle is dropped.
    pub(super) fn start(engine: &Engine) -> std::io::Result<Self> {
        let state = Arc::<State>::default();
        let (ticking, engine) = (Arc::downgrade(&state), engine.clone());
        let handle = thread::Builder::new().name("clock".to_owned()).spawn(move || {
            // Without it no call would end any more that runs too long. It holds no state, so it can begin again.
            while panic::catch_unwind(AssertUnwindSafe(|| tick(&ticking, &engine))).is_err() {
                tracing::error!("the clock of deadlines panicked and begins again (please report this)");
                thread::sleep(TICK);
            }
        })?;
        Ok(Self { state, thread: handle.thread().clone() })
    }

    /// To be called before each call of a guest.
    pub(super) fn call_begins(&self) {
        // Most calls find it set, since the last tick, and write nothing that other threads read.
        if !self.state.called.load(Ordering::Relaxed) {
            self.state.called.store(true, Ordering::SeqCst);
            if self.state.still.load(Ordering::SeqCst) {
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
        state.still.store(false, Ordering::SeqCst);
        engine.increment_epoch();
        idle = if state.called.swap(false, Ordering::SeqCst) { 0 } else { idle + 1 };
        if idle < IDLE_TICKS {
            drop(state);
            thread::sleep(TICK);
            continue;
        }
        idle = 0;
        state.still.store(true, Ordering::SeqCst);
        // Whoever sets `called` from here on sees `still`, and whoever did before is seen here.
        if !state.called.load(Ordering::SeqCst) {
            drop(state);
            thread::park();
        }
    }
}
