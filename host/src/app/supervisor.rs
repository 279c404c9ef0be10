//! The owner of every part of the process: each is a task, and a part that is a thread has a task that waits for the thread's end.
//!
//! No part ends by itself while the gateway serves. If one does, by an error or by a panic, something that players rely on is gone, and nothing
//! would show it. So the gateway then drains and ends, and whatever runs it starts it again. A part that was restarted here could panic again
//! and again, and would have lost what it held.

use crate::telemetry::text;
use std::{any::Any, collections::HashMap, future, time::Duration};
use tokio::{
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

/// A part that has ended although nobody had told it to, or in a way that it should not.
#[derive(Debug, thiserror::Error)]
#[error("{part} ended unexpectedly: {why}")]
pub(super) struct Failure {
    part: &'static str,
    why: String,
}

/// The parts that run.
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
    /// Tells the part to end.
    stop: CancellationToken,
}

impl Supervisor {
    /// Starts a part that ends when `stop` is cancelled, and not before. The name is that of log lines, such as `the bus`.
    pub(super) fn start(
        &mut self,
        name: &'static str,
        stop: &CancellationToken,
        work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(work);
        self.parts.insert(handle.id(), Part { name, handle, stop: stop.clone() });
    }

    /// Waits until a part fails. Cancel-safe.
    pub(super) async fn failure(&mut self) -> &Failure {
        while self.failure.is_none() {
            self.next().await;
        }
        match &self.failure {
            Some(failure) => failure,
            None => future::pending().await,
        }
    }

    /// Waits for the end of a part that was told to end. If it takes longer than `bound`, it is aborted.
    pub(super) async fn ended(&mut self, name: &'static str, bound: Duration) {
        let deadline = Instant::now() + bound;
        while self.parts.values().any(|part| part.name == name) {
            if time::timeout_at(deadline, self.next()).await.is_err() {
                return self.abort(name, bound);
            }
        }
    }

    /// The first failure, if there was one. All parts that still run are aborted.
    pub(super) fn finish(self) -> Result<(), Failure> {
        self.failure.map_or(Ok(()), Err)
    }

    /// Waits for the next part that ends, and judges how. Cancel-safe.
    async fn next(&mut self) {
        let (id, outcome) = match self.tasks.join_next_with_id().await {
            Some(Ok((id, outcome))) => (id, outcome.map_err(|error| text::bounded(format_args!("{error:#}")))),
            Some(Err(error)) => (error.id(), Err(why(error))),
            None => future::pending().await,
        };
        // A part that was aborted is not known any more.
        let Some(Part { name, stop, .. }) = self.parts.remove(&id) else { return };
        match outcome {
            Ok(()) if stop.is_cancelled() => {}
            Ok(()) => self.fail(name, "nobody had told it to".to_owned()),
            Err(why) => self.fail(name, why),
        }
    }

    fn fail(&mut self, part: &'static str, why: String) {
        let failure = Failure { part, why };
        tracing::error!("{failure}: the gateway stops (please report this)");
        self.failure.get_or_insert(failure);
    }

    fn abort(&mut self, name: &'static str, bound: Duration) {
        tracing::warn!("{name} did not end within {bound:?}: the process ends without it");
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

/// What a panic says.
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
    use std::{borrow::Cow, collections::BTreeSet, sync::Arc};
    use tokio::sync::watch;

    const SHORT: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_secs(30);

    /// A supervisor with a part that never ends.
    fn supervisor() -> Supervisor {
        let mut supervisor = Supervisor::default();
        supervisor.start("a whole part", &CancellationToken::new(), future::pending());
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
        assert_eq!(supervisor.failure().await.to_string(), "the part ended unexpectedly: nobody had told it to");
        supervisor.start("another", &CancellationToken::new(), async { anyhow::bail!("no more descriptors") });
        supervisor.ended("another", LONG).await;
        failed(supervisor, "the part ended unexpectedly: nobody had told it to");
    }

    #[tokio::test]
    async fn a_part_that_ends_when_it_is_told_to_is_no_failure_whoever_is_waited_for() {
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
    async fn a_panic_is_a_failure_of_a_part_that_was_told_to_end_as_well() {
        let mut supervisor = supervisor();
        let stop = CancellationToken::new();
        stop.cancel();
        supervisor.start("the other part", &stop, async { panic!("a defect") });
        supervisor.ended("a whole part", SHORT).await;
        failed(supervisor, "the other part ended unexpectedly: it panicked: a defect");
    }

    #[tokio::test]
    async fn a_part_that_does_not_end_is_waited_for_no_longer_than_its_bound() {
        let mut supervisor = supervisor();
        supervisor.ended("a whole part", SHORT).await;
        assert!(supervisor.parts.is_empty());
        assert!(time::timeout(SHORT, supervisor.failure()).await.is_err());
        assert!(supervisor.finish().is_ok());
    }

    /// A handler that panics, so that the bus fails in the middle of its work.
    struct Panics;

    impl bus::Handler for Panics {
        type Origin = ();

        fn message(&self, topic: &str, _: &Bytes, _: Option<&()>) -> usize {
            panic!("a message on {topic}")
        }

        fn is_served(&self, (): &()) -> bool {
            true
        }

        fn refused(&self, (): &(), _: &str) {}
    }

    #[tokio::test]
    async fn a_panic_on_the_bus_is_a_failure() {
        let health = Arc::new(bus::Health::new(Arc::default()));
        let queue = Arc::<bus::Queue<()>>::default();
        let (_topics, wanted) = watch::channel(BTreeSet::new());
        let stop = CancellationToken::new();
        let bus = bus::run(None, Arc::clone(&queue), wanted, Panics, health, stop.clone());
        let mut supervisor = supervisor();
        supervisor.start("the bus", &stop, bus.map(Ok));
        let share = bus::Share::default();
        let permit = queue.reserve(&share, bus::Load { publishes: 1, bytes: 1 }).unwrap();
        permit.commit([("t", Cow::Owned(Bytes::new()), None)].into_iter());
        assert_eq!(supervisor.failure().await.to_string(), "the bus ended unexpectedly: it panicked: a message on t");
    }
}
