//! A bound on the connections that wait for something from a client that is no session. The listener for clients has one
//! for handshakes and for connections that were refused, and the admin listener has one for all of its connections.
//!
//! A flood of such connections would use up the file descriptors until `handshake_timeout_s` has passed. So the oldest
//! of them makes room for a new one. A good client finishes its handshake at once, and is among the newest until then.
//! A bound that refuses new connections was rejected, because it would keep good clients out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// The connections that wait.
#[derive(Debug, Default)]
pub struct HalfOpen(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// The connections by the order in which they began to wait, with that time. Dropping a sender evicts its connection.
    connections: BTreeMap<u64, (Instant, oneshot::Sender<()>)>,
    next: u64,
}

/// The place of one connection that waits. Dropping it gives the place up.
#[derive(Debug)]
pub struct Place {
    half_open: Arc<HalfOpen>,
    number: u64,
    evicted: oneshot::Receiver<()>,
}

impl HalfOpen {
    /// Begins to wait as the newest connection. If more than `max` connections wait then, evicts the oldest ones.
    #[must_use]
    pub fn enter(self: &Arc<Self>, max: u32) -> Place {
        let (sender, evicted) = oneshot::channel();
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next += 1;
        waiting.connections.insert(number, (Instant::now(), sender));
        while waiting.connections.len() > max.max(1) as usize {
            waiting.connections.pop_first();
        }
        drop(waiting);
        Place { half_open: Arc::clone(self), number, evicted }
    }

    /// Evicts the older half of the connections that have waited for at least this time. Returns whether there was any.
    pub fn evict_half(&self, min_wait: Duration) -> bool {
        let mut waiting = self.waiting();
        let late = waiting.connections.values().take_while(|(since, _)| since.elapsed() >= min_wait).count();
        let count = late.div_ceil(2);
        for _ in 0..count {
            waiting.connections.pop_first();
        }
        count > 0
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // No code panics in the middle of a change under this lock, so poisoned connections are consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits until the connection has to make room for another one. Cancel-safe.
    pub async fn evicted(&mut self) {
        if !self.evicted.is_terminated() {
            // Nothing is ever sent. The sender is dropped.
            let _ = (&mut self.evicted).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.half_open.waiting().connections.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn is_evicted(place: &mut Place) -> bool {
        place.evicted().now_or_never().is_some()
    }

    #[test]
    fn the_oldest_connections_make_room_for_new_ones() {
        let half_open = Arc::<HalfOpen>::default();
        let mut places: Vec<_> = (0..5).map(|_| half_open.enter(3)).collect();
        let evicted: Vec<_> = places.iter_mut().map(is_evicted).collect();
        assert_eq!(evicted, [true, true, false, false, false]);
        // A connection that has finished needs no eviction.
        drop(places.remove(3));
        places.push(half_open.enter(3));
        let evicted: Vec<_> = places.iter_mut().map(is_evicted).collect();
        assert_eq!(evicted, [true, true, false, false, false]);
        // A lower bound holds from the next connection on.
        let mut last = half_open.enter(1);
        assert!(places.iter_mut().all(is_evicted) && !is_evicted(&mut last));
        drop((places, last));
        assert!(half_open.waiting().connections.is_empty());
    }

    #[test]
    fn without_descriptors_the_older_half_is_evicted() {
        let half_open = Arc::<HalfOpen>::default();
        assert!(!half_open.evict_half(Duration::ZERO));
        let mut places: Vec<_> = (0..3).map(|_| half_open.enter(9)).collect();
        assert!(!half_open.evict_half(Duration::from_secs(3600)), "they have not had the time to finish");
        assert!(half_open.evict_half(Duration::ZERO));
        let evicted: Vec<_> = places.iter_mut().map(is_evicted).collect();
        assert_eq!(evicted, [true, true, false]);
        assert!(half_open.evict_half(Duration::ZERO) && !half_open.evict_half(Duration::ZERO));
    }
}
