//! The clock of deadlines: it ends calls that run too long. It ticks slowly while there are no calls.

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

/// The clock ticks slowly after this many ticks in which no call began or ran.
const IDLE_TICKS: u32 = 100;

/// The time between two ticks while no call is known of.
///
/// The clock does not stand still: a busy system may suspend a thread for longer than [`IDLE_TICKS`] between the moment at which a call says that
/// it runs and the one at which the tick is set that it waits for. The call would run for ever if that tick did not come.
const SLOW_TICK: Duration = Duration::from_millis(100);

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
    slow: AtomicBool,
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
            if self.state.slow.load(Ordering::SeqCst) {
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
        state.slow.store(false, Ordering::SeqCst);
        engine.increment_epoch();
        idle = if state.called.swap(false, Ordering::SeqCst) { 0 } else { idle + 1 };
        if idle < IDLE_TICKS {
            drop(state);
            thread::sleep(TICK);
            continue;
        }
        idle = IDLE_TICKS;
        state.slow.store(true, Ordering::SeqCst);
        // Whoever sets `called` from here on sees `slow`, and whoever did before is seen here.
        if !state.called.load(Ordering::SeqCst) {
            drop(state);
            thread::park_timeout(SLOW_TICK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use wasmtime::{Config, Instance, Module, Store, Trap};

    /// A module that exports `f`, a function that never ends.
    const ENDLESS: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x05\x01\x01f\0\0\
        \x0a\x09\x01\x07\0\x03\x40\x0c\0\x0b\x0b";

    #[test]
    fn a_call_whose_thread_was_suspended_after_it_began_still_sees_ticks() {
        let engine = Engine::new(Config::new().epoch_interruption(true)).unwrap();
        let clock = Clock::start(&engine).unwrap();
        let module = Module::new(&engine, ENDLESS).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let endless = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
        clock.call_begins();
        while !clock.state.slow.load(Ordering::SeqCst) {
            thread::sleep(TICK);
        }
        store.set_epoch_deadline(1);
        let (ended, outcome) = mpsc::channel();
        // On a thread of its own, so that a call without an end fails the test.
        thread::spawn(move || ended.send(endless.call(&mut store, ())));
        let error = outcome.recv_timeout(Duration::from_secs(60)).expect("the call ends").unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Trap::Interrupt));
    }
}
