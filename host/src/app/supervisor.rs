//! The owner of every part of the process. Each part is a task. If a part is a thread, its task waits for the thread.
//!
//! No part ends by itself while the gateway serves. If a part does end, by an error or a panic, the gateway lacks a
//! function that players need, and nothing would show that. So the gateway drains and ends, and the service manager
//! starts it again. Restarting only the part was rejected: the part could panic again and again, and would have lost
//! its state.

use crate::telemetry::text;
use std::{any::Any, collections::HashMap, future, time::Duration};
use tokio::{
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

/// A part that ended without being told to, or with an error or a panic.
#[derive(Debug, thiserror::Error)]
#[error("{part} ended unexpectedly: {why}")]
pub(super) struct Failure {
    part: &'static str,
    why: String,
}

/// The running parts.
#[derive(Default)]
pub(super) struct Supervisor {
    tasks: JoinSet<anyhow::Result<()>>,
    parts: HashMap<Id, Part>,
    /// The first part that failed, which is the reason why the process ends.
    failure: Option<Failure>,
}

struct Part {
    name: &'static str,
    handle: AbortHandle,
    /// The token that tells the part to end.
    stop: CancellationToken,
}

impl Supervisor {
    /// Starts a part that may end only after `stop` is cancelled. The name appears in log lines, such as `the bus`.
    pub(super) fn start(
        &mut self,
        name: &'static str,
        stop: &CancellationToken,
        work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(work);
        self.parts.insert(handle.id(), Part { name, handle, stop: stop.clone() });
    }

    /// Waits until a part fails, and returns the first failure. Cancel-safe.
    pub(super) async fn failure(&mut self) -> &Failure {
        while self.failure.is_none() {
            self.next().await;
        }
        match &self.failure {
            Some(failure) => failure,
            None => future::pending().await,
        }
    }

    /// Waits for the end of a part that was told to end. Aborts the part if it has not ended within `bound`.
    pub(super) async fn ended(&mut self, name: &'static str, bound: Duration) {
        let deadline = Instant::now() + bound;
        while self.parts.values().any(|part| part.name == name) {
            if time::timeout_at(deadline, self.next()).await.is_err() {
                return self.abort(name, bound);
            }
        }
    }

    /// Aborts all parts that still run. Returns the first failure, if there was one.
    pub(super) fn finish(self) -> Result<(), Failure> {
        self.failure.map_or(Ok(()), Err)
    }

    /// Waits for the next part that ends, and records a failure if the part should not have ended. Cancel-safe.
    async fn next(&mut self) {
        let (id, outcome) = match self.tasks.join_next_with_id().await {
            Some(Ok((id, outcome))) => (id, outcome.map_err(|error| text::bounded(format_args!("{error:#}")))),
            Some(Err(error)) => (error.id(), Err(why(error))),
            None => future::pending().await,
        };
        // A part that was aborted is no longer in the map.
        let Some(Part { name, stop, .. }) = self.parts.remove(&id) else { return };
        match outcome {
            Ok(()) if stop.is_cancelled() => {}
            Ok(()) => self.fail(name, "it was not told to stop".to_owned()),
            Err(why) => self.fail(name, why),
        }
    }

    fn fail(&mut self, part: &'static str, why: String) {
        let failure = Failure { part, why };
        tracing::error!("{failure}: the gateway stops (please report this)");
        self.failure.get_or_insert(failure);
    }

    fn abort(&mut self, name: &'static str, bound: Duration) {
        tracing::warn!("{name} did not end within {bound:?}: the process ends without waiting for it");
        for (_, part) in self.parts.extract_if(|_, part| part.name == name) {
            part.handle.abort();
        }
    }
}

fn why(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => format!("it panicked: {}", panic_text(&*panic)),
        Err(error) => error.to_string(),
    }
}

/// Returns the text of a panic.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text::bounded(text.unwrap_or("without a text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus;
    use bytes::Bytes;
    use futures_util::FutureExt;
    use std::{borrow::Cow, sync::Arc};

    const SHORT: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_secs(30);

    /// Returns a supervisor with a part that never ends.
    fn supervisor() -> Supervisor {
        let mut supervisor = Supervisor::default();
        supervisor.start("an endless part", &CancellationToken::new(), future::pending());
        supervisor
    }

    #[track_caller]
    fn failed(supervisor: Supervisor, text: &str) {
        assert_eq!(supervisor.finish().map_err(|failure| failure.to_string()), Err(text.to_owned()));
    }

    #[tokio::test]
    async fn a_part_that_panics_is_a_failure_with_its_name_and_text() {
        let mut supervisor = supervisor();
        supervisor.start("the part", &CancellationToken::new(), async { panic!("defect {}", 7) });
        let text = "the part ended unexpectedly: it panicked: defect 7";
        assert_eq!(supervisor.failure().await.to_string(), text);
        failed(supervisor, text);
    }

    #[tokio::test]
    async fn a_part_that_ends_or_fails_by_itself_is_a_failure_and_the_first_one_counts() {
        let mut supervisor = supervisor();
        supervisor.start("the part", &CancellationToken::new(), async { Ok(()) });
        assert_eq!(supervisor.failure().await.to_string(), "the part ended unexpectedly: it was not told to stop");
        supervisor.start("another", &CancellationToken::new(), async { anyhow::bail!("no more descriptors") });
        supervisor.ended("another", LONG).await;
        failed(supervisor, "the part ended unexpectedly: it was not told to stop");
    }

    #[tokio::test]
    async fn a_part_that_ends_after_its_stop_is_no_failure() {
        let mut supervisor = supervisor();
        let stop = CancellationToken::new();
        for part in ["the part", "another"] {
            let stopped = stop.clone().cancelled_owned();
            supervisor.start(part, &stop, stopped.map(Ok));
        }
        stop.cancel();
        let none = time::timeout(SHORT, supervisor.failure()).await;
        assert!(none.is_err());
        supervisor.ended("the part", LONG).await;
        supervisor.ended("another", LONG).await;
        assert!(supervisor.finish().is_ok());
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_even_after_the_part_was_told_to_end() {
        let mut supervisor = supervisor();
        let stop = CancellationToken::new();
        stop.cancel();
        supervisor.start("the other part", &stop, async { panic!("a defect") });
        supervisor.ended("an endless part", SHORT).await;
        failed(supervisor, "the other part ended unexpectedly: it panicked: a defect");
    }

    #[tokio::test]
    async fn a_part_that_does_not_end_in_time_is_aborted() {
        let mut supervisor = supervisor();
        supervisor.ended("an endless part", SHORT).await;
        assert!(supervisor.parts.is_empty());
        assert!(time::timeout(SHORT, supervisor.failure()).await.is_err());
        assert!(supervisor.finish().is_ok());
    }

    /// A handler that panics, so that the bus fails while it works.
    #[derive(Clone)]
    struct Panics;

    impl bus::Handler for Panics {
        type Origin = ();

        async fn messages(&self, messages: Vec<bus::Message<()>>) -> Vec<bus::Message<()>> {
            panic!("a message on {}", messages[0].topic)
        }

        fn takes_entries(&self, _: &str) -> bool {
            true
        }

        fn is_served(&self, (): &()) -> bool {
            true
        }

        async fn missed(&self, _: Duration) {}

        fn refused(&self, (): &(), _: &str) {}
    }

    #[tokio::test]
    async fn a_panic_on_the_bus_is_a_failure() {
        let health = Arc::new(bus::Health::new(Arc::default()));
        let queue = Arc::<bus::Queue<()>>::default();
        let stop = CancellationToken::new();
        let bus = bus::run(None, Arc::clone(&queue), Arc::default(), Panics, health, stop.clone());
        let mut supervisor = supervisor();
        supervisor.start("the bus", &stop, bus.map(Ok));
        let share = bus::Share::default();
        let permit = queue.reserve(&share, bus::Load { publishes: 1, bytes: 1 }).unwrap();
        permit.commit(0, [("t", Cow::Owned(Bytes::new()), None)].into_iter());
        assert_eq!(supervisor.failure().await.to_string(), "the bus ended unexpectedly: it panicked: a message on t");
    }
}
