//! Calls the plugins whose timers are due.

use super::{
    calls::{Call, Occasion},
    gateway::Gateway,
    progress::Progress,
    reach::Reach,
    refusal::Refusal,
    snapshot::{ServingPlugin, Snapshot},
    timers::Due,
    turn::Turn,
};
use crate::sync::uptime::now_ms;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{task, time};

/// The number of timers of one plugin after which it is the turn of the next plugin.
const MAX_WAKES_PER_TURN: usize = 64;

/// The time after which it is the turn of the next plugin.
const MAX_TURN: Duration = Duration::from_millis(5);

/// The longest time between two looks at the timers.
const MAX_PAUSE: Duration = Duration::from_secs(1);

impl Gateway {
    /// Calls plugins when their timers are due, for as long as the process runs.
    pub async fn run_timers(self: Arc<Self>) {
        loop {
            let next =
                self.snapshot.load().served().iter().filter_map(|served| served.account.timers.next_due_ms()).min();
            let pause = next.map_or(MAX_PAUSE, |due| Duration::from_millis(due.saturating_sub(now_ms())));
            if pause.is_zero() {
                // Timers that are always due must not keep the thread from its other tasks.
                task::yield_now().await;
            } else {
                tokio::select! {
                    () = time::sleep(pause.min(MAX_PAUSE)) => {}
                    () = self.accounts.timer_set.notified() => {}
                }
            }
            // Other plugins may serve by now.
            let snapshot = self.snapshot.load_full();
            for served in snapshot.served() {
                if self.wake_due(served, &snapshot) {
                    task::yield_now().await;
                }
            }
        }
    }

    /// Calls a plugin for timers that are due, for as long as its turn lasts. Returns whether there was one.
    fn wake_due(self: &Arc<Self>, served: &Arc<ServingPlugin>, snapshot: &Arc<Snapshot>) -> bool {
        let (now, began) = (now_ms(), Instant::now());
        let mut turn = Turn::new(&self.metrics);
        for wakes in 0..MAX_WAKES_PER_TURN {
            let Some(due) = served.account.timers.take_due(now) else { return wakes > 0 };
            turn.run(|| self.wake(served, snapshot, due));
            if began.elapsed() >= MAX_TURN {
                break;
            }
        }
        true
    }

    fn wake(self: &Arc<Self>, served: &Arc<ServingPlugin>, snapshot: &Arc<Snapshot>, due: Due) {
        if !served.plugin.takes().timers {
            served.account.timers.done(due);
            return;
        }
        let call = Call { served, occasion: Occasion::Wake { key: due.key } };
        let served = self.serve(&call, snapshot).and_then(|rest| match rest {
            Progress::Done(_) => Ok(true),
            Progress::Left(rest) => {
                let done = move |gateway: &Arc<Self>, call: &Call<'_>, outcome: Result<Reach, Refusal>| {
                    gateway.woken(call, due, outcome.map(|_| ()));
                };
                self.offload(call.owned(), Arc::clone(snapshot), rest, done).map(|()| false)
            }
        });
        match served {
            Ok(true) => self.woken(&call, due, Ok(())),
            Ok(false) => {}
            Err(refusal) => self.woken(&call, due, Err(refusal)),
        }
    }

    /// Records that the call for a timer is over. A timer whose call failed is set again.
    fn woken(&self, call: &Call<'_>, due: Due, outcome: Result<(), Refusal>) {
        let timers = &call.served.account.timers;
        match outcome {
            Ok(()) => timers.done(due),
            Err(refusal) => {
                self.record_loss(call, &refusal);
                timers.retry(due);
            }
        }
    }
}
