//! The publishes that wait for the bus: many senders, one receiver, bounded in number and in bytes.
//!
//! A sender reserves capacity, carries its other actions out, and then commits its publishes. The bus sees none of them before the commit, and
//! the lock is held neither between the two nor while anything is copied that is large.

use super::batch::Batch;
use crate::sync::wakeup::Wakeup;
use bytes::Bytes;
use std::{
    borrow::Cow,
    future::poll_fn,
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
};

/// The number of publishes that may wait. One sender alone gets at most half of it.
const MAX_QUEUED_PUBLISHES: usize = 32 * 1024;

/// The bytes of topics and bodies that may wait. One sender alone gets at most half of them.
const MAX_QUEUED_BYTES: usize = 128 << 20;

/// A number of publishes and the bytes of their topics and bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The number of publishes.
    pub publishes: usize,
    /// The bytes of their topics and bodies.
    pub bytes: usize,
}

/// One sender's use of a queue: a plugin's, over all its generations.
///
/// The counters change under the queue's lock only.
#[derive(Debug, Default)]
pub struct Share {
    /// The number of the batch that the queued publishes are in. When the bus takes a batch, all shares are free again.
    batch: AtomicU64,
    queued: Counters,
    reserved: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    publishes: AtomicUsize,
    bytes: AtomicUsize,
}

impl Counters {
    fn load(&self) -> Load {
        Load { publishes: self.publishes.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }

    fn store(&self, load: Load) {
        self.publishes.store(load.publishes, Ordering::Relaxed);
        self.bytes.store(load.bytes, Ordering::Relaxed);
    }
}

/// Why there is no capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The queue is full or closed.
    Queue,
    /// The sender has used up its share of the queue. Others may still publish.
    Share,
}

/// The queue between routing and the bus. `O` is the origin of a publish.
#[derive(Debug)]
pub struct Queue<O> {
    state: Mutex<State<O>>,
    away: AtomicBool,
}

#[derive(Debug)]
struct State<O> {
    waiting: Batch<O>,
    /// The number of the batch that fills now.
    batch: u64,
    reserved: Load,
    receiver: Wakeup,
    closed: bool,
}

impl<O> Default for Queue<O> {
    fn default() -> Self {
        let state = State {
            waiting: Batch::default(),
            batch: 1,
            reserved: Load::default(),
            receiver: Wakeup::default(),
            closed: false,
        };
        Self { state: Mutex::new(state), away: AtomicBool::new(false) }
    }
}

impl<O> Queue<O> {
    /// Reserves capacity for publishes of a sender.
    ///
    /// A sender may use as much as stays free beside it. So one sender gets half of the queue, two get a third each, and there is
    /// always capacity left for another one. (Dynamic thresholds: Choudhury and Hahne, 1998, with a factor of 1.)
    ///
    /// # Errors
    /// [`Full`] if the sender or the queue has no capacity left.
    pub fn reserve<'a>(&'a self, share: &'a Share, wanted: Load) -> Result<Permit<'a, O>, Full> {
        let mut state = self.state();
        let free = state.free().ok_or(Full::Queue)?;
        if wanted.publishes > free.publishes || wanted.bytes > free.bytes {
            return Err(Full::Queue);
        }
        let (queued, reserved) = (share.queued_in(state.batch), share.reserved.load());
        let used = plus(plus(queued, reserved), wanted);
        if used.publishes > free.publishes - wanted.publishes || used.bytes > free.bytes - wanted.bytes {
            return Err(Full::Share);
        }
        state.reserved = plus(state.reserved, wanted);
        share.reserved.store(plus(reserved, wanted));
        Ok(Permit { queue: self, share, wanted })
    }

    /// The number of publishes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().waiting.len()
    }

    /// Whether no publish waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether publishes may have to wait for long, since the bus is not connected. A body that waits for long should be a copy of its own, not
    /// a slice of a read buffer that it keeps alive.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    pub(super) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    /// Takes no more publishes.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.receiver.wake();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Waits until there are publishes, and moves all of them into the batch, which is emptied before. The batch stays empty only if the
    /// queue is closed and empty as well.
    pub(super) async fn take(&self, batch: &mut Batch<O>) {
        batch.clear();
        poll_fn(|cx| {
            let mut state = self.state();
            // A permit that was given out before the queue was closed may still be committed.
            let more_may_come = !state.closed || state.reserved.publishes > 0;
            if state.waiting.is_empty() && more_may_come {
                state.receiver.wait(cx);
                return Poll::Pending;
            }
            state.receiver.announce_drain();
            mem::swap(&mut state.waiting, batch);
            state.batch += 1;
            Poll::Ready(())
        })
        .await;
    }

    fn state(&self) -> MutexGuard<'_, State<O>> {
        // No code under the lock panics half-way through a change, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O> State<O> {
    /// The free capacity, unless the queue is closed.
    fn free(&self) -> Option<Load> {
        let used = plus(self.reserved, Load { publishes: self.waiting.len(), bytes: self.waiting.bytes() });
        (!self.closed).then_some(Load {
            publishes: MAX_QUEUED_PUBLISHES.saturating_sub(used.publishes),
            bytes: MAX_QUEUED_BYTES.saturating_sub(used.bytes),
        })
    }
}

impl Share {
    fn queued_in(&self, batch: u64) -> Load {
        if self.batch.load(Ordering::Relaxed) == batch { self.queued.load() } else { Load::default() }
    }
}

fn plus(a: Load, b: Load) -> Load {
    Load { publishes: a.publishes + b.publishes, bytes: a.bytes.saturating_add(b.bytes) }
}

/// Capacity for publishes of one sender. It is free again when this is dropped.
#[derive(Debug)]
pub struct Permit<'a, O> {
    queue: &'a Queue<O>,
    share: &'a Share,
    wanted: Load,
}

impl<O> Permit<'_, O> {
    /// Queues the publishes that the capacity was reserved for, in one step.
    pub fn commit<'p>(self, publishes: impl Iterator<Item = (&'p str, Cow<'p, Bytes>, Option<O>)>) {
        let mut state = self.queue.state();
        for (topic, body, origin) in publishes.take(self.wanted.publishes) {
            state.waiting.push(topic, body, origin);
        }
        let queued = self.share.queued_in(state.batch);
        self.share.queued.store(plus(queued, self.wanted));
        self.share.batch.store(state.batch, Ordering::Relaxed);
        self.release(&mut state);
        state.receiver.wake();
        drop(state);
        mem::forget(self);
    }

    fn release(&self, state: &mut State<O>) {
        let minus =
            |a: Load| Load { publishes: a.publishes - self.wanted.publishes, bytes: a.bytes - self.wanted.bytes };
        state.reserved = minus(state.reserved);
        self.share.reserved.store(minus(self.share.reserved.load()));
        if state.closed {
            state.receiver.wake();
        }
    }
}

impl<O> Drop for Permit<'_, O> {
    fn drop(&mut self) {
        self.release(&mut self.queue.state());
    }
}

#[cfg(test)]
mod tests {
    use super::{super::batch::MIN_SHARED_BYTES, *};
    use futures_util::FutureExt;

    const HALF: usize = MAX_QUEUED_PUBLISHES / 2;

    fn taken(queue: &Queue<u32>) -> Vec<(String, Vec<u8>, Option<u32>)> {
        let mut batch = Batch::default();
        queue.take(&mut batch).now_or_never();
        batch.iter().map(|it| (it.topic.to_owned(), it.body.to_owned(), it.origin.copied())).collect()
    }

    fn publish(queue: &Queue<u32>, share: &Share, publishes: usize, body: &Bytes) -> Result<(), Full> {
        let bytes = publishes * (1 + body.len());
        let permit = queue.reserve(share, Load { publishes, bytes })?;
        permit.commit((0..publishes).map(|_| ("t", Cow::Borrowed(body), Some(1))));
        Ok(())
    }

    #[test]
    fn publishes_come_out_as_they_went_in_whatever_their_size() {
        let (queue, share) = (Queue::default(), Share::default());
        let sizes = [0, 1, MIN_SHARED_BYTES - 1, MIN_SHARED_BYTES, 3, 3 * MIN_SHARED_BYTES, 5];
        let bodies = sizes.map(|len| Bytes::from(vec![b'x'; len]));
        let topics = ["a", "bcd", "", "ü", "e", "f", "g"];
        let publishes = || topics.into_iter().zip(&bodies);
        let load = |publishes| Load { publishes, bytes: 1000 };
        let permit = queue.reserve(&share, load(topics.len())).unwrap();
        permit.commit(publishes().map(|(topic, body)| (topic, Cow::Borrowed(body), Some(7))));
        queue.reserve(&share, load(1)).unwrap().commit([(topics[0], Cow::Borrowed(&bodies[0]), None)].into_iter());
        let all: Vec<_> = publishes().map(|(topic, body)| (topic.to_owned(), body.to_vec(), Some(7))).collect();
        let last = (topics[0].to_owned(), Vec::new(), None);
        assert_eq!(taken(&queue), [all, vec![last]].concat());
        assert_eq!(taken(&queue), []);
    }

    #[test]
    fn a_sender_gets_half_of_the_queue_and_another_one_half_of_the_rest() {
        let (queue, greedy, modest) = (Queue::default(), Share::default(), Share::default());
        assert_eq!(publish(&queue, &greedy, HALF, &Bytes::new()), Ok(()));
        assert_eq!(publish(&queue, &greedy, 1, &Bytes::new()), Err(Full::Share));
        assert_eq!(publish(&queue, &modest, HALF / 2, &Bytes::new()), Ok(()));
        assert_eq!(publish(&queue, &modest, 1, &Bytes::new()), Err(Full::Share));
        assert_eq!(taken(&queue).len(), HALF + HALF / 2);
        assert_eq!(publish(&queue, &greedy, HALF, &Bytes::new()), Ok(()), "what was taken is free again");
    }

    #[test]
    fn bytes_are_bounded_before_they_are_queued() {
        let (queue, share) = (Queue::default(), Share::default());
        let large = Bytes::from(vec![0; MAX_QUEUED_BYTES / 8]);
        assert_eq!(publish(&queue, &share, 1024, &large), Err(Full::Queue));
        assert_eq!(publish(&queue, &share, 3, &large), Ok(()));
        assert_eq!(publish(&queue, &share, 1, &large), Err(Full::Share), "the topic counts as well");
        assert_eq!(taken(&queue).len(), 3);
    }

    #[test]
    fn nobody_waits_for_a_sender_between_reserve_and_commit() {
        let (queue, slow, other) = (Queue::default(), Share::default(), Share::default());
        let permit = queue.reserve(&slow, Load { publishes: 2, bytes: 2 }).unwrap();
        assert_eq!(publish(&queue, &other, 1, &Bytes::new()), Ok(()));
        assert_eq!(taken(&queue).len(), 1, "the bus sees nothing before the commit");
        let body = Bytes::new();
        permit.commit((0..2).map(|_| ("t", Cow::Borrowed(&body), None)));
        assert_eq!(taken(&queue).len(), 2);
    }

    #[test]
    fn capacity_that_is_not_used_is_free_again() {
        let (queue, share) = (Queue::<u32>::default(), Share::default());
        let half = Load { publishes: HALF, bytes: 0 };
        drop(queue.reserve(&share, half).unwrap());
        drop(queue.reserve(&share, half).unwrap());
        assert_eq!(publish(&queue, &share, HALF, &Bytes::new()), Ok(()));
        assert_eq!(taken(&queue).len(), HALF);
    }

    #[test]
    fn what_waits_when_it_is_closed_is_taken_and_then_nothing() {
        let (queue, share) = (Queue::default(), Share::default());
        assert_eq!(publish(&queue, &share, 1, &Bytes::new()), Ok(()));
        queue.close();
        assert_eq!(publish(&queue, &share, 1, &Bytes::new()), Err(Full::Queue));
        assert_eq!(taken(&queue).len(), 1);
        assert!(queue.take(&mut Batch::default()).now_or_never().is_some());
    }

    #[test]
    fn a_permit_from_before_the_close_is_waited_for() {
        let (queue, share) = (Queue::default(), Share::default());
        let permit = queue.reserve(&share, Load { publishes: 1, bytes: 1 }).unwrap();
        queue.close();
        assert!(queue.take(&mut Batch::default()).now_or_never().is_none());
        let body = Bytes::new();
        permit.commit([("t", Cow::Borrowed(&body), None)].into_iter());
        assert_eq!(taken(&queue).len(), 1);
        assert!(queue.take(&mut Batch::default()).now_or_never().is_some());
    }
}
