//! Probes of the games' backends, for the readiness report.
//!
//! A background task connects to each backend at intervals. A request for the report reads the last outcome, so that an
//! unreachable backend does not delay the report.

use crate::{reload::reports::Reports, telemetry::text};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    net::TcpStream,
    task::{AbortHandle, JoinSet},
    time,
};

/// The time that a backend has to accept a connection.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The pause between two attempts to reach a backend.
const INTERVAL: Duration = Duration::from_secs(1);

/// The outcome of the last attempt for each backend, by address.
#[derive(Debug, Default)]
pub(crate) struct Probes(Mutex<BTreeMap<String, Outcome>>);

/// The outcome of an attempt. The error is the reason why the backend was not reached.
type Outcome = Result<(), String>;

impl Probes {
    /// Probes all backends of the games in the reports. Never returns.
    pub(crate) async fn run(self: Arc<Self>, reports: Arc<Reports>) {
        let mut tasks = JoinSet::new();
        let mut probed = BTreeMap::<String, AbortHandle>::new();
        let mut interval = time::interval(INTERVAL);
        loop {
            interval.tick().await;
            let games = reports.get().games;
            let wanted: BTreeSet<_> = games.into_iter().flat_map(|game| game.backends.into_values()).collect();
            probed.retain(|address, task| {
                let kept = wanted.contains(address);
                if !kept {
                    task.abort();
                }
                kept
            });
            self.outcomes().retain(|address, _| wanted.contains(address));
            for address in wanted {
                let probe = Arc::clone(&self).follow(address.clone());
                probed.entry(address).or_insert_with(|| tasks.spawn(probe));
            }
            // Remove the tasks that were aborted or have panicked. The next tick starts a new task after a panic.
            while tasks.try_join_next().is_some() {}
            probed.retain(|_, task| !task.is_finished());
        }
    }

    /// Returns the entry of the backend at `address` for the readiness report.
    #[must_use]
    pub(crate) fn report(&self, address: &str) -> Value {
        let untried = Err("not tried yet".to_owned());
        let outcome = self.outcomes().get(address).cloned().unwrap_or(untried);
        json!({ "address": address, "reachable": outcome.is_ok(), "error": outcome.err() })
    }

    async fn follow(self: Arc<Self>, address: String) {
        loop {
            let outcome = match time::timeout(TIMEOUT, TcpStream::connect(&address)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(text::bounded(error)),
                Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
            };
            self.outcomes().insert(address.clone(), outcome);
            time::sleep(INTERVAL).await;
        }
    }

    fn outcomes(&self) -> MutexGuard<'_, BTreeMap<String, Outcome>> {
        // No code panics in the middle of a change under this lock, so a poisoned map is still consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
