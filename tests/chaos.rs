//! The chaos test: hostile clients, plugins and files, reloads, outages of Redis and a lack of file descriptors, all at
//! once. The events are drawn from a seed. Meanwhile, well-behaved players and their backend count every message.
//!
//! A run ends with a ledger that accounts for each message. Either the message was delivered, or it was refused with a
//! status, or it was dropped for a counted reason, or other evidence excuses its loss. `make chaos` runs the test for
//! longer, and runs the other tests that take minutes too.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "chaos/attackers.rs"]
mod attackers;
#[path = "chaos/backend.rs"]
mod backend;
#[path = "containment/bystander.rs"]
mod bystander;
#[path = "chaos/connects.rs"]
mod connects;
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
#[path = "chaos/many_files.rs"]
mod many_files;
#[path = "chaos/messages.rs"]
mod messages;
#[path = "chaos/outages.rs"]
mod outages;
#[path = "chaos/plan.rs"]
mod plan;
#[path = "chaos/player.rs"]
mod player;
#[path = "chaos/recorder.rs"]
mod recorder;
#[path = "chaos/report.rs"]
mod report;
#[path = "chaos/run.rs"]
mod run;
#[path = "chaos/storm.rs"]
mod storm;

use plan::Plan;
use std::{env, time::Duration};

/// The default seed of a run, if the variable `CHAOS_SEED` is not set.
const SEED: u64 = 1;
/// The default length of the plan in seconds, if the variable `CHAOS_SECONDS` is not set. A plan of this length has
/// nearly every kind of event once.
const SECONDS: u64 = 25;

/// Reads a number from an environment variable.
fn option(name: &str) -> Option<u64> {
    let value = env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(value.parse().unwrap_or_else(|_| panic!("the environment variable {name} is not a number: {value}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_is_accounted_for_whatever_happens_around_it() {
    let seed = option("CHAOS_SEED").unwrap_or(SEED);
    let plan = Plan::draw(seed, Duration::from_secs(option("CHAOS_SECONDS").unwrap_or(SECONDS)));
    println!("{plan}");
    let outcome = run::run(&plan).await;
    println!("{outcome}");
    let defects = outcome.defects();
    assert!(defects.is_empty(), "the run has defects, and CHAOS_SEED={seed} replays it: {defects:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes minutes: `make chaos` runs it"]
async fn ten_thousand_hostile_connections_and_every_hostile_guest_leave_others_and_the_memory_alone() {
    let weather = storm::measure_storms().await;
    println!("{weather}");
    let defects = weather.defects();
    assert!(defects.is_empty(), "{defects:#?}");
}
