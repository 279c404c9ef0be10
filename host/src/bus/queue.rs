//! The queue of publishes that wait for the bus. It has many senders and one receiver, and is bounded in number and in
//! bytes.
//!
//! A sender reserves capacity, carries out its other actions, and then commits its publishes. The bus sees no publish
//! before the commit. The lock is not held between reserve and commit, nor while a large body is copied.
//!
//! The publishes of a session that begins to listen to a topic are held back until Redis has subscribed to it. Otherwise
//! the answer to a publish could be published before this gateway hears the topic. Nobody else's publishes wait.

use super::batch::{Batch, OwnedPublication, Publication, Trace};
use crate::sync::{
    primitives::{AtomicBool, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, PoisonError},
    wakeup::Wakeup,
};
use bytes::Bytes;
use std::{borrow::Cow, collections::VecDeque, future::poll_fn, mem, task::Poll, time::Duration};

/// How long the bus may take to publish the queued messages when the gateway stops. After that, the remaining publishes
/// are refused.
pub const DRAIN: Duration = Duration::from_secs(5);

/// The maximum number of publishes in the queue. A single sender gets at most half of this number.
const MAX_QUEUED_PUBLISHES: usize = 32 * 1024;

/// The maximum size of all topics and bodies in the queue, in bytes. A single sender gets at most half of this size.
const MAX_QUEUED_BYTES: usize = 128 << 20;

/// The number of a change of the subscriptions. A later change has a higher number, and 0 is before all changes.
pub type ChangeNumber = u64;

/// A number of publishes and the size of their topics and bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The number of publishes.
    pub publishes: usize,
    /// The size of the topics and bodies of the publishes, in bytes.
    pub bytes: usize,
}

/// The use of the queue by one sender. A sender is a plugin with all its generations.
///
/// The counters change only while the queue's lock is held.
#[derive(Debug, Default)]
pub struct Share {
    /// The number of the batch to which `queued` refers. When the bus takes that batch, `queued` no longer counts.
    batch: AtomicU64,
    /// The sender's load in the batch.
    queued: Counters,
    /// The load that the sender has reserved and not committed.
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

/// Why no capacity was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The queue is full or closed.
    Queue,
    /// The sender has used up its share of the queue. Other senders may still publish.
    Share,
}

/// The queue between routing and the bus. `O` is the type of a publish's origin.
#[derive(Debug)]
pub struct Queue<O> {
    state: Mutex<State<O>>,
    disconnected: AtomicBool,
}

#[derive(Debug)]
struct State<O> {
    waiting: Batch<O>,
    /// The number of the batch that is being filled.
    batch: u64,
    reserved: Load,
    /// The publishes that wait for a subscription, in the order of their commits.
    held: VecDeque<Held<O>>,
    /// The size of the topics and bodies of the held publishes, in bytes.
    held_bytes: usize,
    /// The last change of the subscriptions that Redis has carried out. A publish that waits for a later one is held.
    carried_out: ChangeNumber,
    receiver: Wakeup,
    closed: bool,
}

/// A publish that waits for a change of the subscriptions.
#[derive(Debug)]
struct Held<O> {
    after: ChangeNumber,
    publication: OwnedPublication<O>,
}

impl<O> Default for Queue<O> {
    fn default() -> Self {
        let state = State {
            waiting: Batch::default(),
            batch: 1,
            reserved: Load::default(),
            held: VecDeque::new(),
            held_bytes: 0,
            carried_out: ChangeNumber::MAX,
            receiver: Wakeup::default(),
            closed: false,
        };
        Self { state: Mutex::new(state), disconnected: AtomicBool::new(false) }
    }
}

impl<O> Queue<O> {
    /// Reserves capacity for publishes of a sender.
    ///
    /// A sender may use at most as much capacity as remains free. So one sender gets half of the queue, two senders get
    /// a third each, and there is always capacity for another sender. (Dynamic thresholds: Choudhury and Hahne, 1998,
    /// with a factor of 1.)
    ///
    /// # Errors
    /// Returns [`Full`] if the sender or the queue has no capacity left, or if the queue is closed.
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

    /// Queues a publish that another queue has already taken. Returns false if this queue is full or closed.
    pub(super) fn pass_on(&self, publication: &Publication<'_, O>) -> bool
    where
        O: Copy,
    {
        let Publication { topic, body, origin, trace } = *publication;
        let mut state = self.state();
        if !state.free().is_some_and(|free| free.publishes > 0 && free.bytes >= topic.len() + body.len()) {
            return false;
        }
        state.push(topic, Cow::Owned(Bytes::copy_from_slice(body)), origin.copied(), trace.cloned(), 0);
        state.receiver.wake();
        true
    }

    /// Returns the number and the size of the publishes that wait.
    #[must_use]
    pub fn load(&self) -> Load {
        self.state().load()
    }

    /// Returns whether publishes may wait for long because the bus is not connected. A body that waits for long should
    /// be a copy, because a slice keeps a whole read buffer alive.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        self.disconnected.load(Ordering::Relaxed)
    }

    pub(super) fn set_disconnected(&self, disconnected: bool) {
        self.disconnected.store(disconnected, Ordering::Relaxed);
    }

    /// Records which changes of the subscriptions Redis has carried out, and queues the publishes that waited for them.
    /// While nothing is published without the subscriptions anyway, this is [`ChangeNumber::MAX`].
    pub(super) fn set_carried_out(&self, change: ChangeNumber) {
        self.state().set_carried_out(change);
    }

    /// Returns whether Redis has carried out this change of the subscriptions, or publishes would not wait for it.
    #[must_use]
    pub fn has_carried_out(&self, change: ChangeNumber) -> bool {
        self.state().carried_out >= change
    }

    /// Closes the queue, which then refuses to reserve capacity. Capacity that was reserved earlier can still be
    /// committed.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.set_carried_out(ChangeNumber::MAX);
        state.receiver.wake();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Empties the batch, waits until there are publishes, and moves all of them into the batch. The batch is empty
    /// afterwards only if the queue is closed and empty.
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

    /// Moves the publishes that wait now into the batch, which is empty afterwards if there are none.
    pub(super) fn take_now(&self, batch: &mut Batch<O>) {
        let mut state = self.state();
        batch.clear();
        mem::swap(&mut state.waiting, batch);
        state.batch += 1;
    }

    fn state(&self) -> MutexGuard<'_, State<O>> {
        // No code panics in the middle of a change under this lock, so a poisoned state is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O> State<O> {
    /// Returns the number and the size of the publishes that wait.
    fn load(&self) -> Load {
        let waiting = Load { publishes: self.waiting.len(), bytes: self.waiting.bytes() };
        let held = Load { publishes: self.held.len(), bytes: self.held_bytes };
        plus(waiting, held)
    }

    /// Returns the free capacity, or `None` if the queue is closed.
    fn free(&self) -> Option<Load> {
        let used = plus(self.reserved, self.load());
        (!self.closed).then_some(Load {
            publishes: MAX_QUEUED_PUBLISHES.saturating_sub(used.publishes),
            bytes: MAX_QUEUED_BYTES.saturating_sub(used.bytes),
        })
    }

    fn set_carried_out(&mut self, change: ChangeNumber) {
        self.carried_out = change;
        for publish in mem::take(&mut self.held) {
            if publish.after <= change {
                let OwnedPublication { topic, body, origin, trace } = publish.publication;
                self.held_bytes -= topic.len() + body.len();
                self.waiting.push(&topic, Cow::Owned(body), origin, trace);
            } else {
                self.held.push_back(publish);
            }
        }
        if !self.waiting.is_empty() {
            self.receiver.wake();
        }
    }

    fn push(&mut self, topic: &str, body: Cow<'_, Bytes>, origin: Option<O>, trace: Trace, after: ChangeNumber) {
        if after <= self.carried_out {
            self.waiting.push(topic, body, origin, trace);
        } else {
            self.held_bytes += topic.len() + body.len();
            let publication = OwnedPublication { topic: topic.into(), body: body.into_owned(), origin, trace };
            self.held.push_back(Held { after, publication });
        }
    }
}

impl Share {
    /// Returns the sender's load in the batch with this number.
    fn queued_in(&self, batch: u64) -> Load {
        if self.batch.load(Ordering::Relaxed) == batch { self.queued.load() } else { Load::default() }
    }
}

fn plus(a: Load, b: Load) -> Load {
    Load { publishes: a.publishes + b.publishes, bytes: a.bytes.saturating_add(b.bytes) }
}

/// A permit to queue publishes: capacity that one sender has reserved. Dropping the permit releases the capacity.
#[derive(Debug)]
pub struct Permit<'a, O> {
    queue: &'a Queue<O>,
    share: &'a Share,
    wanted: Load,
}

impl<O> Permit<'_, O> {
    /// Queues the publishes that the capacity was reserved for, in one step. They wait until Redis has carried out the
    /// change of the subscriptions with the number `after`.
    pub fn commit<'p>(
        self,
        after: ChangeNumber,
        publishes: impl Iterator<Item = (&'p str, Cow<'p, Bytes>, Option<O>)>,
    ) {
        self.commit_traced(after, publishes.map(|(topic, body, origin)| (topic, body, origin, None)));
    }

    /// Does the same as [`commit`](Self::commit) for publishes whose spans may be recorded.
    pub fn commit_traced<'p>(
        self,
        after: ChangeNumber,
        publishes: impl Iterator<Item = (&'p str, Cow<'p, Bytes>, Option<O>, Trace)>,
    ) {
        let mut state = self.queue.state();
        for (topic, body, origin, trace) in publishes.take(self.wanted.publishes) {
            state.push(topic, body, origin, trace, after);
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

// The path is given, because the tests with loom include this file from another folder.
#[cfg(test)]
#[path = "queue/tests.rs"]
mod tests;
