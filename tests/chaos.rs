//! Chaos: hostile clients, plugins and files, reloads, outages of Redis and a lack of descriptors, all at once and drawn from a seed, while
//! well-behaved players and their backend count every message. It ends with a ledger, in which each message is delivered, refused
//! with a status, or dropped for a counted reason. `make chaos` runs it for longer, and the storm besides.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "chaos/backend.rs"]
mod backend;
#[path = "containment/bystander.rs"]
mod bystander;
#[path = "chaos/counters.rs"]
mod counters;
#[path = "chaos/files.rs"]
mod files;
#[path = "chaos/journal.rs"]
mod journal;
#[path = "chaos/ledger.rs"]
mod ledger;
#[path = "chaos/ledger_tests.rs"]
mod ledger_tests;
#[path = "chaos/messages.rs"]
mod messages;
#[path = "chaos/outages.rs"]
mod outages;
#[path = "chaos/plan.rs"]
mod plan;
#[path = "chaos/player.rs"]
mod player;
#[path = "chaos/report.rs"]
mod report;
#[path = "chaos/run.rs"]
mod run;
#[path = "chaos/storm.rs"]
mod storm;
#[path = "chaos/strangers.rs"]
mod strangers;
#[path = "chaos/tap.rs"]
mod tap;

use plan::Plan;
use std::{env, time::Duration};

/// The seed of a run and the length of its plan in seconds, unless the environment has others. A plan of this length has nearly every
/// kind of event once.
const SEED: u64 = 1;
const SECONDS: u64 = 25;

/// A number from the environment.
fn option(name: &str) -> Option<u64> {
    let value = env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_is_accounted_for_whatever_happens_around_it() {
    let seed = option("CHAOS_SEED").unwrap_or(SEED);
    let plan = Plan::draw(seed, Duration::from_secs(option("CHAOS_SECONDS").unwrap_or(SECONDS)));
    println!("{plan}");
    let outcome = run::run(&plan).await;
    println!("{outcome}");
    let defects = outcome.defects();
    assert!(defects.is_empty(), "CHAOS_SEED={seed} replays it: {defects:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes minutes: `make chaos` runs it"]
async fn ten_thousand_hostile_connections_and_every_hostile_guest_leave_others_and_the_memory_alone() {
    let weather = storm::weather().await;
    println!("{weather}");
    let defects = weather.defects();
    assert!(defects.is_empty(), "{defects:#?}");
}
