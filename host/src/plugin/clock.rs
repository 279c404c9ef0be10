//! The clock of deadlines: it ends calls that run too long, and stands still while there are none.

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

/// How often it ticks.
const TICK: Duration = Duration::from_millis(1);

/// After so many ticks in which no call began or ran it stands still.
const IDLE_TICKS: u32 = 100;

/// A call that was seen running at fewer ticks was not running for long, whatever its thread's clock says: that counts interrupts as well, and what
/// a virtual machine's host takes away.
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
    /// Sets it for the call that begins.
    pub(super) fn set(&mut self, timeout: Duration) {
        *self = Self { timeout, ticks: 0, began: Duration::ZERO };
    }

    /// To be asked at each tick that the guest sees: whether the call has to end.
    pub(super) fn is_over(&mut self) -> bool {
        self.ticks += 1;
        if self.ticks == 1 {
            self.began = processor_time();
        }
        self.busy() >= self.timeout
    }

    /// How long the call kept its thread busy, as far as that can be told.
    pub(super) fn busy(&self) -> Duration {
        if self.ticks < SEEN { Duration::ZERO } else { processor_time().saturating_sub(self.began) }
    }
}

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Whom to wake up when a call begins.
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
    /// Starts the clock of an engine. It ends with it.
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
