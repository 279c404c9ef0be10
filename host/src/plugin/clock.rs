//! The clock of deadlines. It ends calls that run for too long, and it ticks slowly while there are no calls.

use super::limits::allowance;
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

/// The number of consecutive ticks in which no call began or ran, after which the clock ticks slowly.
const IDLE_TICKS: u32 = 100;

/// The time between two ticks while the clock ticks slowly.
///
/// The clock does not stop. A busy system may suspend a thread for longer than [`IDLE_TICKS`] between the moment at which
/// the thread records that a call begins and the call itself. If the clock stopped then, the call could run for ever.
const SLOW_TICK: Duration = Duration::from_millis(100);

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
    /// The number of bytes that the host copied into the plugin.
    copied: usize,
    ticks: u32,
    /// The processor time of the thread at the first tick. It means nothing before that tick.
    first_tick_at: Duration,
}

impl Deadline {
    /// Starts the deadline of a new call, for which the host copies some bytes into the plugin. The call gets additional
    /// time for them.
    pub(super) fn set(&mut self, timeout: Duration, copied: usize) {
        (self.timeout, self.copied, self.ticks) = (timeout, copied, 0);
    }

    /// Counts a tick, and returns whether the call has to end. It must be called at each tick that the guest sees.
    pub(super) fn is_over(&mut self) -> bool {
        self.ticks += 1;
        if self.ticks == 1 {
            self.first_tick_at = processor_time();
        }
        self.busy() >= self.timeout + allowance(self.copied)
    }

    /// Returns the processor time of the call since its first tick, or 0 if the call saw fewer than [`MIN_TICKS_SEEN`]
    /// ticks.
    pub(super) fn busy(&self) -> Duration {
        if self.ticks < MIN_TICKS_SEEN { Duration::ZERO } else { self.since_first_tick() }
    }

    #[cold]
    fn since_first_tick(&self) -> Duration {
        processor_time().saturating_sub(self.first_tick_at)
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
    /// Whether the clock ticks slowly.
    slow: AtomicBool,
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

    /// Records that a call begins or still runs, and speeds the clock up if it ticks slowly. It must be called before
    /// each call of a guest, after the call's deadline is set.
    pub(super) fn call_begins(&self) {
        // Most calls find the flag already set since the last tick. Such calls write no memory that other threads read.
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
        // A thread that sets `called` after this line sees `slow` and unparks the clock. If a thread has set
        // `called` before, the check below finds the flag set.
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
    fn a_call_may_run_longer_if_the_host_copied_more_for_it() {
        // 1 ms, and 9 µs for each KiB.
        for (copied, is_over) in [(0, true), (1 << 30, false)] {
            let mut deadline = Deadline::default();
            deadline.set(Duration::from_millis(1), copied);
            let seen = (1..MIN_TICKS_SEEN).filter(|_| deadline.is_over()).count();
            assert_eq!(seen, 0, "a call that saw too few ticks");
            while deadline.since_first_tick() < Duration::from_millis(2) {}
            assert_eq!(deadline.is_over(), is_over, "{copied} bytes");
        }
    }

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
        // The call runs on a thread of its own, so that a call without an end fails the test.
        thread::spawn(move || ended.send(endless.call(&mut store, ())));
        let error = outcome.recv_timeout(Duration::from_secs(60)).expect("the call ends").unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Trap::Interrupt));
    }
}
