//! The comparison of the latency of a healthy route without and with bad plugins.

use std::time::Duration;

/// The number of runs in a set of measurements.
const RUNS: usize = 5;

/// The largest number of sets. One of them has to be within the bound.
const SETS: usize = 3;

/// Returns the bound of docs/plugins.md for the latency of a healthy route. Without containment, the calls of four
/// clients, 20 ms each, would keep the two threads busy without pause.
fn bound(quiet: Duration) -> Duration {
    2 * quiet + Duration::from_millis(5)
}

/// Asserts that a healthy route stays quick. Each run measures the 99th percentile of its latency twice: without bad
/// plugins, and with them.
///
/// The medians of a set of runs are compared, because other work on the machine disturbs single runs. It may disturb a
/// whole set as well, so there are several.
pub(crate) async fn assert_stays_quick<F: Future<Output = (Duration, Duration)>>(what: &str, run: impl Fn() -> F) {
    let mut sets = Vec::new();
    for _ in 0..SETS {
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            runs.push(run().await);
        }
        let (mut quiet, mut busy): (Vec<_>, Vec<_>) = runs.iter().copied().unzip();
        quiet.sort();
        busy.sort();
        if busy[RUNS / 2] <= bound(quiet[RUNS / 2]) {
            return;
        }
        sets.push(runs);
    }
    panic!("{what}: p99 without and with bad plugins, for each run of each set: {sets:?}");
}
