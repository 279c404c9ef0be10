//! The budget of bytes that all connections together may buffer for incomplete messages.

use crate::{
    delivery::{outbox::Closing, session::Session},
    net::violation::Violation,
    telemetry::metrics::Metrics,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use uuid::Uuid;

/// The bytes that each connection may buffer without being counted, so that small messages never take the budget's
/// lock.
pub const UNCOUNTED_BYTES: usize = 4096;

/// The budget and its holders. When the budget is exceeded, the connection that holds the most is closed. So clients
/// that send small messages are served while others send large ones.
#[derive(Debug)]
pub struct Budget {
    max_bytes: usize,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: usize,
    /// The connections that hold bytes, ordered by size: the last entry is the largest.
    holders: BTreeMap<(usize, Uuid), Arc<Session>>,
}

impl Budget {
    /// Returns a budget of `max_bytes` bytes.
    #[must_use]
    pub fn new(max_bytes: usize, metrics: Arc<Metrics>) -> Self {
        Self { max_bytes, metrics, state: Mutex::default() }
    }

    /// Returns the lease of one session. A new lease holds no bytes.
    #[must_use]
    pub fn lease(self: &Arc<Self>, session: Arc<Session>) -> Lease {
        Lease { budget: Arc::clone(self), session, bytes: 0 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics in the middle of a change under this lock, so a poisoned state is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of the budget that one connection holds.
#[derive(Debug)]
pub struct Lease {
    budget: Arc<Budget>,
    session: Arc<Session>,
    bytes: usize,
}

impl Lease {
    /// Sets the number of bytes that the connection holds now.
    ///
    /// # Errors
    /// Returns [`Violation::OverBudget`] if this connection held the most when the budget was exceeded. Its session is
    /// aborted.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Violation> {
        let bytes = if bytes <= UNCOUNTED_BYTES { 0 } else { bytes };
        if bytes == self.bytes {
            return Ok(());
        }
        let mut state = self.budget.state();
        if self.bytes > 0 {
            if state.holders.remove(&(self.bytes, self.session.id)).is_none() {
                // This connection was closed when the budget was exceeded, because it held the most.
                return if bytes == 0 { Ok(()) } else { Err(Violation::OverBudget) };
            }
            state.held -= self.bytes;
        }
        if bytes > 0 {
            state.held += bytes;
            state.holders.insert((bytes, self.session.id), Arc::clone(&self.session));
        }
        self.bytes = bytes;
        let mut survives = true;
        while state.held > self.budget.max_bytes
            && let Some(((bytes, id), largest)) = state.holders.pop_last()
        {
            state.held -= bytes;
            survives &= id != self.session.id;
            largest.outbox.abort(over_budget());
        }
        self.budget.metrics.receiving_bytes.set(i64::try_from(state.held).unwrap_or(i64::MAX));
        if survives { Ok(()) } else { Err(Violation::OverBudget) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A smaller size is never refused.
        let _ = self.resize(0);
    }
}

/// Returns the closing for the session that holds the most when the budget is exceeded.
fn over_budget() -> Closing {
    Closing { code: 1009, reason: Violation::OverBudget.to_string(), cause: "receive_budget" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{outbox::Limits, registry::Registered, registry::Registry};
    use std::{
        net::SocketAddr,
        task::{Context, Waker},
    };

    fn session(registry: &Arc<Registry>) -> Registered {
        let limits = Limits::of(9, 999);
        registry.admit(Session::new(SocketAddr::from(([127, 0, 0, 1], 1)), limits)).unwrap()
    }

    fn is_aborted(session: &Session) -> bool {
        session.outbox.poll_abort(&Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn only_the_largest_holder_is_closed_when_the_budget_is_exceeded() {
        let (registry, metrics) = (Arc::default(), Arc::new(Metrics::new()));
        let budget = Arc::new(Budget::new(30_000, Arc::clone(&metrics)));
        let sessions = [session(&registry), session(&registry), session(&registry)];
        let [mut small, mut large, mut late] = sessions.each_ref().map(|session| budget.lease(Arc::clone(session)));
        assert_eq!([small.resize(5000), large.resize(16_000), late.resize(9000)], [Ok(()), Ok(()), Ok(())]);
        assert_eq!(metrics.receiving_bytes.get(), 30_000);
        // Bytes up to `UNCOUNTED_BYTES` are accepted even if the budget is used up.
        assert_eq!(budget.lease(Arc::clone(&sessions[0])).resize(UNCOUNTED_BYTES), Ok(()));
        assert_eq!(small.resize(5001), Ok(()));
        assert_eq!(sessions.each_ref().map(|session| is_aborted(session)), [false, true, false]);
        assert_eq!(metrics.receiving_bytes.get(), 14_001);
        // The closed session gets an error when it asks for more. Dropping its lease does not release its bytes a
        // second time.
        assert_eq!(large.resize(32_000), Err(Violation::OverBudget));
        drop(large);
        assert_eq!(metrics.receiving_bytes.get(), 14_001);
        // The connection that asks for more may itself be the largest.
        assert_eq!(late.resize(25_000), Err(Violation::OverBudget));
        assert_eq!(metrics.receiving_bytes.get(), 5001);
        assert_eq!(small.resize(0), Ok(()));
        assert_eq!(metrics.receiving_bytes.get(), 0);
    }
}
