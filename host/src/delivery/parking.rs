//! The memory that sessions hold while their clients are away, and its bound.
//!
//! If the sessions together hold more, the one whose client left first gives its place up. It has the smallest chance
//! that its client still comes back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// What a session holds beside its messages, in bytes: its task, its entry in the registry, its send queue, and what a
/// plugin usually keeps for it. 15 000 sessions of `chat` took 9.4 KiB each, with what the allocator kept of their connects.
const SESSION_BYTES: usize = 8192;

/// What a waiting message takes beside its packet, in bytes.
const MESSAGE_BYTES: usize = 64;

/// The sessions whose clients are away.
#[derive(Debug, Default)]
pub struct Parking(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    max_bytes: usize,
    bytes: usize,
    next: u64,
    /// The sessions in the order in which their clients left.
    parked: BTreeMap<u64, Parked>,
}

#[derive(Debug)]
struct Parked {
    bytes: usize,
    /// Dropping it evicts the session.
    _evict: oneshot::Sender<()>,
}

/// The place of one session. Dropping it gives the place up.
#[derive(Debug)]
pub struct Place {
    parking: Arc<Parking>,
    number: u64,
}

impl Parking {
    /// Sets the number of bytes that the sessions may hold together.
    pub fn set_max_bytes(&self, max_bytes: usize) {
        self.state().max_bytes = max_bytes;
    }

    /// Returns the number of sessions whose clients are away, and the bytes that they hold.
    #[must_use]
    pub fn usage(&self) -> (usize, usize) {
        let state = self.state();
        (state.parked.len(), state.bytes)
    }

    /// Parks a session that holds no messages yet. The receiver resolves when the session has to give its place up.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> (Place, oneshot::Receiver<()>) {
        let (evict, evicted) = oneshot::channel();
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.parked.insert(number, Parked { bytes: 0, _evict: evict });
        drop(state);
        let place = Place { parking: Arc::clone(self), number };
        place.set(0, 0);
        (place, evicted)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics in the middle of a change under this lock, so a poisoned state is still consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Records that the session holds this number of messages, and their bytes. Evicts the sessions that have been away
    /// for longest until the bound holds, and possibly this one.
    pub fn set(&self, messages: usize, packet_bytes: usize) {
        let state = &mut *self.parking.state();
        let Some(parked) = state.parked.get_mut(&self.number) else { return };
        let bytes = SESSION_BYTES + messages * MESSAGE_BYTES + packet_bytes;
        state.bytes = state.bytes - parked.bytes + bytes;
        parked.bytes = bytes;
        while state.bytes > state.max_bytes
            && let Some((_, evicted)) = state.parked.pop_first()
        {
            state.bytes -= evicted.bytes;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.parking.state();
        if let Some(parked) = state.parked.remove(&self.number) {
            state.bytes -= parked.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parking(sessions: usize) -> Arc<Parking> {
        let parking = Arc::<Parking>::default();
        parking.set_max_bytes(sessions * SESSION_BYTES + 1000);
        parking
    }

    fn is_evicted(evicted: &mut oneshot::Receiver<()>) -> bool {
        evicted.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn the_sessions_that_are_away_for_longest_give_up_their_places() {
        let parking = parking(3);
        let mut parked: Vec<_> = (0..3).map(|_| parking.enter()).collect();
        parked[2].0.set(1, 900);
        assert!(!parked.iter_mut().any(|(_, evicted)| is_evicted(evicted)));
        parked[1].0.set(1, 900);
        let evicted: Vec<_> = parked.iter_mut().map(|(_, evicted)| is_evicted(evicted)).collect();
        assert_eq!(evicted, [true, false, false]);
        assert_eq!(parking.usage(), (2, 2 * SESSION_BYTES + 2 * (MESSAGE_BYTES + 900)));
        // An evicted session that still gets messages holds nothing any more.
        parked[0].0.set(1, 100_000);
        drop(parked.remove(0));
        assert_eq!(parking.usage().0, 2);
        drop(parked);
        assert_eq!(parking.usage(), (0, 0));
    }

    #[test]
    fn a_session_that_holds_too_much_gives_up_its_own_place() {
        let parking = parking(1);
        let (place, mut evicted) = parking.enter();
        place.set(1, 1001);
        assert!(is_evicted(&mut evicted));
        assert_eq!(parking.usage(), (0, 0));
    }
}
