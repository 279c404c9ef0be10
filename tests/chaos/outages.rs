//! The outages of Redis in a run.

use crate::{journal::Journal, recorder::RecordingProxy};
use gateway_tests::Redis;
use std::time::Duration;
use tokio::time;

/// One outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outage {
    /// Redis is killed, and started again after this time.
    Kill { away: Duration },
    /// Redis is stopped (SIGSTOP), and continued after this time.
    Pause { lasts: Duration },
    /// The gateway's connections to Redis are cut.
    Cut,
}

/// Causes the outage, and returns when the outage is over.
pub(crate) async fn apply(outage: Outage, redis: &mut Redis, tap: &RecordingProxy, journal: &Journal) {
    match outage {
        Outage::Kill { away } => {
            let now = journal.now();
            journal.book().kills.push(now);
            redis.kill().await;
            time::sleep(away).await;
            redis.restart().await;
        }
        Outage::Pause { lasts } => {
            redis.signal("STOP").await;
            time::sleep(lasts).await;
            redis.signal("CONT").await;
        }
        Outage::Cut => tap.cut(),
    }
}
