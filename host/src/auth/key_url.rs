//! The key set at a URL, which is fetched again and again, and once more when a token names an unknown key.

use super::{fetch, key_set::KeySet, loaded::Loaded};
use crate::telemetry::metrics::Metrics;
use hyper::Uri;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant},
};

/// The time after which the keys are fetched again, if the response does not say another time.
const REFRESH: Duration = Duration::from_secs(600);

/// The bounds on the time that a response may ask for.
const REFRESH_BOUNDS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(86_400));

/// The shortest time between two fetches for unknown keys, over all connections.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(10);

/// The pause after the first failed fetch. Each further failure doubles the pause.
const MIN_RETRY: Duration = Duration::from_millis(500);

/// The longest pause after a failed fetch.
const MAX_RETRY: Duration = Duration::from_secs(30);

/// A key set at a URL.
pub(super) struct KeyUrl {
    pub(super) url: Uri,
    pub(super) loaded: Loaded,
    demand: Mutex<Demand>,
    /// Wakes the fetching task up.
    wanted: Notify,
    /// The number of finished fetches.
    fetches: watch::Sender<u64>,
}

#[derive(Default)]
struct Demand {
    /// Whether a fetch is under way or about to begin.
    is_fetching: bool,
    /// The earliest time of the next fetch for an unknown key.
    next: Option<Instant>,
}

impl KeyUrl {
    /// Returns the source without keys.
    pub(super) fn new(url: &Uri) -> Self {
        // The path and the query may contain a secret.
        let host = url.authority().map_or("", |authority| authority.as_str());
        Self {
            url: url.clone(),
            loaded: Loaded::new(format!("auth.jwks_url {host}")),
            demand: Mutex::default(),
            wanted: Notify::new(),
            fetches: watch::Sender::new(0),
        }
    }

    /// Fetches the keys, and fetches them again when they are old or wanted. Never returns.
    pub(super) async fn follow(&self, metrics: &Metrics) {
        let mut retry = MIN_RETRY;
        loop {
            self.demand().is_fetching = true;
            let outcome = self.fetch().await;
            metrics.jwks_fetched(if outcome.is_ok() { "ok" } else { "failed" });
            let pause = match &outcome {
                Ok((_, max_age)) => {
                    retry = MIN_RETRY;
                    max_age.map_or(REFRESH, |age| age.clamp(REFRESH_BOUNDS.0, REFRESH_BOUNDS.1))
                }
                Err(_) => {
                    let pause = retry;
                    retry = (retry * 2).min(MAX_RETRY);
                    pause
                }
            };
            self.loaded.record(outcome.map(|(keys, _)| keys));
            self.fetched();
            tokio::select! {
                () = time::sleep(pause) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    /// Records the end of a fetch, and wakes the tokens that wait for it.
    fn fetched(&self) {
        // Under the lock, so that a token which begins the next fetch does not take this end for that of its own.
        let mut demand = self.demand();
        demand.is_fetching = false;
        self.fetches.send_modify(|fetches| *fetches += 1);
    }

    async fn fetch(&self) -> Result<(KeySet, Option<Duration>), String> {
        let fetched = fetch::get(&self.url).await.map_err(|error| error.to_string())?;
        let keys = KeySet::parse(&fetched.body).map_err(|error| error.to_string())?;
        Ok((keys, fetched.max_age))
    }

    /// Waits for a fetch because a token names an unknown key. Begins one if none is under way, but at most once in
    /// [`UNKNOWN_KEY_INTERVAL`] for all tokens.
    pub(super) async fn fetch_for_unknown_key(&self) {
        let mut fetches = {
            let mut demand = self.demand();
            if !demand.is_fetching {
                let now = Instant::now();
                if demand.next.is_some_and(|next| now < next) {
                    return;
                }
                *demand = Demand { is_fetching: true, next: Some(now + UNKNOWN_KEY_INTERVAL) };
                self.wanted.notify_one();
            }
            self.fetches.subscribe()
        };
        // The fetching task ends if gateway.yaml names another URL, so the wait is bounded. The caller looks for the key
        // again in any case.
        let _ = time::timeout(fetch::TIMEOUT, fetches.changed()).await;
    }

    fn demand(&self) -> MutexGuard<'_, Demand> {
        // No code panics in the middle of a change under this lock, so a poisoned state is still consistent.
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn unknown_keys_cause_one_fetch_in_ten_seconds() {
        let keys = KeyUrl::new(&Uri::from_static("http://localhost/keys"));
        let finish = || keys.fetched();
        let (first, second) = (keys.fetch_for_unknown_key(), keys.fetch_for_unknown_key());
        let (mut first, mut second) = (Box::pin(first), Box::pin(second));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        keys.wanted.notified().now_or_never().expect("one fetch is wanted");
        assert!(keys.wanted.notified().now_or_never().is_none(), "the second token waits for the same fetch");
        finish();
        assert!(first.now_or_never().is_some() && second.now_or_never().is_some());
        assert!(keys.fetch_for_unknown_key().now_or_never().is_some(), "within ten seconds");
        assert!(keys.wanted.notified().now_or_never().is_none());

        let next = keys.demand().next.replace(Instant::now()).expect("the time of the next fetch");
        assert!(next > Instant::now() + UNKNOWN_KEY_INTERVAL / 2);
        let mut third = Box::pin(keys.fetch_for_unknown_key());
        assert!(third.as_mut().now_or_never().is_none());
        keys.wanted.notified().now_or_never().expect("another fetch is wanted");
        finish();
        assert!(third.now_or_never().is_some());
    }
}
