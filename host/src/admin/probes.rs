//! Whether the chat backends of the games can be reached: each is tried again and again beside the requests, so that a dead one keeps no answer waiting.

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

/// How long a backend may take to accept a connection.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The pause between two attempts.
const INTERVAL: Duration = Duration::from_secs(1);

/// What is known of each backend, by its address.
#[derive(Debug, Default)]
pub struct Probes(Mutex<BTreeMap<String, Outcome>>);

/// Of the last attempt: what went wrong, or nothing.
type Outcome = Result<(), String>;

impl Probes {
    /// Tries the backends of the games that the reports name, for ever.
    pub async fn run(self: Arc<Self>, reports: Arc<Reports>) {
        let mut tasks = JoinSet::new();
        let mut probed = BTreeMap::<String, AbortHandle>::new();
        let mut interval = time::interval(INTERVAL);
        loop {
            interval.tick().await;
            let games = reports.get().games;
            let wanted: BTreeSet<_> = games.into_iter().filter_map(|game| game.chat_backend).collect();
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
            // Those that were aborted, or have panicked.
            while tasks.try_join_next().is_some() {}
            probed.retain(|_, task| !task.is_finished());
        }
    }

    /// What the readiness report says of a backend.
    #[must_use]
    pub fn report(&self, address: &str) -> Value {
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
        // A panic under the lock leaves a map that is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
