//! Handles SIGTERM and SIGINT, and ends the process by its deadline.
//!
//! Signals have a thread and a runtime of their own. So a process with busy or stuck threads still notices a signal and
//! still ends.

use crate::telemetry::log;
use std::{
    future::pending,
    io, process,
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::Duration,
};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    time,
};
use tokio_util::sync::CancellationToken;

/// The exit code of a process that did not stop in time.
const TOO_LATE: i32 = 1;

/// The time that the process may take to stop as long as the configuration is not known.
const START_BOUND: Duration = Duration::from_secs(30);

/// The time that the process may take to stop, which follows from the configuration.
#[derive(Clone, Default)]
pub(super) struct Deadline(Arc<OnceLock<Duration>>);

impl Deadline {
    /// Sets the time. Only the first call has an effect.
    pub(super) fn set(&self, bound: Duration) {
        self.0.get_or_init(|| bound);
    }
}

/// Cancels `stop` at the first signal. Once `stop` is cancelled, by a signal or by something else, the process ends at
/// the next signal or after the returned deadline. The exit code is 128 plus the signal's number, as in a shell, or
/// [`TOO_LATE`].
///
/// # Errors
/// Returns an error if the system refuses a thread or a signal handler.
pub(super) fn listen(stop: CancellationToken) -> io::Result<Deadline> {
    let deadline = Deadline::default();
    let set = deadline.clone();
    let (started, outcome) = mpsc::channel();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let listening = runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            let signals = runtime.block_on(async { Signals::new() })?;
            Ok((runtime, signals))
        });
        match listening {
            Ok((runtime, signals)) => {
                let _ = started.send(Ok(()));
                runtime.block_on(end_the_process(signals, stop, set));
            }
            Err(error) => drop(started.send(Err(error))),
        }
    })?;
    outcome.recv().unwrap_or_else(|closed| Err(io::Error::other(closed)))?;
    Ok(deadline)
}

async fn end_the_process(mut signals: Signals, stop: CancellationToken, deadline: Deadline) {
    tokio::select! {
        _ = signals.next() => stop.cancel(),
        () = stop.cancelled() => {}
    }
    let bound = deadline.0.get().copied().unwrap_or(START_BOUND);
    tokio::select! {
        (name, code) = signals.next() => {
            exit(code, &format!("{name} while the gateway stops: the process ends at once"))
        }
        () = time::sleep(bound) => {
            exit(TOO_LATE, &format!("the gateway did not stop within {bound:?}: the process ends"))
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal. Returns its name and its exit code.
    async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            Some(()) = self.terminate.recv() => ("SIGTERM", 128 + SignalKind::terminate().as_raw_value()),
            Some(()) = self.interrupt.recv() => ("SIGINT", 128 + SignalKind::interrupt().as_raw_value()),
            else => pending().await
        }
    }
}

fn exit(code: i32, why: &str) -> ! {
    tracing::error!("{why}");
    log::finish(|| ());
    process::exit(code)
}
