//! The open loop: sends messages when they are due, whether earlier ones have arrived or not.
//!
//! The open loop has a thread of its own. The runtime's timers tick in milliseconds, which is ten times as long as a
//! fast gateway takes.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::clock::{Period, Schedule};
use crate::traffic::Traffic;

/// The longest sleep. It is bounded so that the end of the run is noticed.
const NAP: Duration = Duration::from_millis(100);

/// Keeps to the schedule until the end of the period. A message that is late is sent at once, and its latency counts
/// from the time at which it was due.
pub(crate) fn keep(traffic: &Traffic, schedule: Schedule, period: &Period) -> anyhow::Result<()> {
    wake_up_on_time();
    let total = schedule.total(period.measured.end - period.start);
    let (mut sent, mut out) = (0, Vec::new());
    while sent < total && !traffic.stopped() {
        let now = traffic.clock.now();
        let elapsed = now.saturating_sub(period.start);
        let (due, count) = (schedule.due(sent), schedule.count(elapsed).min(total));
        if count <= sent {
            let pause = Duration::from_nanos(due.saturating_sub(elapsed));
            thread::sleep(pause.clamp(Duration::from_nanos(1), NAP));
            continue;
        }
        if period.measured.contains(&now) {
            traffic.tally().lateness.record(elapsed.saturating_sub(due));
        }
        traffic.send_scheduled(schedule, sent, count, &mut out)?;
        sent = count;
    }
    Ok(())
}

/// Asks the system to end the sleeps of this thread on time. To save wake-ups, Linux lets a sleep last up to 50 µs
/// longer than asked for. If the system refuses, messages are sent a little later, and the report says how late.
fn wake_up_on_time() {
    // This is a link to PID/task/TID.
    if let Ok(thread) = fs::read_link("/proc/thread-self")
        && let Some(id) = thread.file_name()
    {
        let _ = fs::write(Path::new("/proc").join(id).join("timerslack_ns"), "1");
    }
}
