//! Many bots at once.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use gateway_connection::{Target, interrupted};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::bot::{self, Shared};
use super::tally::Tally;

/// The number of bots that connect at the same time.
const MAX_CONNECTING: usize = 32;

const SECOND: Duration = Duration::from_secs(1);

/// The meaning of the options.
pub(crate) struct Plan {
    pub(crate) bots: u32,
    pub(crate) field: bool,
    pub(crate) json: bool,
    /// Whether the bots come back when their connections break.
    pub(crate) reconnects: bool,
    /// The time for which the bots play. It begins when they begin to connect.
    pub(crate) time: Option<Duration>,
}

/// The most that played at a time.
#[derive(Default)]
struct Peak {
    bots: u64,
    rooms: usize,
}

/// Lets the bots play, and prints what they see. Fails if anything went wrong.
pub(crate) async fn run(plan: Plan, target: Target) -> anyhow::Result<()> {
    let shared = Arc::new(Shared::new(target, plan.field, plan.reconnects, plan.bots, MAX_CONNECTING, Tally::new()?));
    let (stop, stopped) = watch::channel(false);
    let mut bots = JoinSet::new();
    for number in 0..plan.bots {
        bots.spawn(bot::play(Arc::clone(&shared), number, stopped.clone()));
    }
    let mut peak = Peak::default();
    let outcome = tokio::select! {
        outcome = report(&shared, plan.json, &mut peak) => outcome,
        () = over(plan.time, &mut bots) => Ok(()),
        () = interrupted() => Ok(()),
    };
    peak.note(&shared.tally());
    stop.send_replace(true);
    while bots.join_next().await.is_some() {}
    outcome?;
    let tally = shared.tally();
    let Peak { bots, rooms } = peak;
    let summary = if plan.json { tally.json(bots, rooms) } else { tally.summary(bots, rooms) };
    writeln!(io::stdout(), "{summary}")?;
    tally.verdict()
}

/// Completes when the time is over or when all bots have failed.
async fn over(time: Option<Duration>, bots: &mut JoinSet<()>) {
    let time = async {
        match time {
            Some(time) => sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = time => {}
        () = async { while bots.join_next().await.is_some() {} } => {}
    }
}

/// Prints a line every second, unless only the summary is asked for. Never completes, except with an error.
async fn report(shared: &Shared, json: bool, peak: &mut Peak) -> anyhow::Result<()> {
    let mut seconds = interval_at(Instant::now() + SECOND, SECOND);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        seconds.tick().await;
        let line = {
            let mut tally = shared.tally();
            peak.note(&tally);
            tally.second()
        };
        if !json {
            writeln!(io::stdout(), "{line}")?;
        }
    }
}

impl Peak {
    fn note(&mut self, tally: &Tally) {
        self.bots = self.bots.max(tally.connected);
        self.rooms = self.rooms.max(tally.rooms.len());
    }
}
