//! What happens to Redis.

use crate::{journal::Journal, tap::Tap};
use gateway_tests::Redis;
use std::time::Duration;
use tokio::time;

/// One of the things that happen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outage {
    /// It is killed, and started again later.
    Kill { away: Duration },
    /// It is stopped (SIGSTOP), and goes on later.
    Pause { lasts: Duration },
    /// The gateway's connections to it break.
    Cut,
}

/// Lets it happen, up to the end of the outage.
pub(crate) async fn happen(outage: Outage, redis: &mut Redis, tap: &Tap, journal: &Journal) {
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
