//! The instances of a generation: one for each worker thread, so that its lock is free whenever it is taken, and one for the offload thread.
//!
//! They are not thread-locals: those would outlive the plugin on threads that have nothing to do.

use super::{
    LoadError,
    instance::{Fault, Instance},
};
use crate::sync::sharded::Sharded;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// The place of an instance. It is empty after a call that failed.
type Slot = Mutex<Option<Box<Instance>>>;

/// A slot that this thread has locked.
pub(super) type Held<'a> = MutexGuard<'a, Option<Box<Instance>>>;

/// All slots of a generation.
pub(super) struct Pool {
    workers: Sharded<Slot>,
    offload: Slot,
}

impl Pool {
    /// A pool without empty slots.
    pub(super) fn filled(mut start: impl FnMut() -> Result<Instance, LoadError>) -> Result<Self, LoadError> {
        let pool = Self { workers: Sharded::default(), offload: Slot::default() };
        for slot in pool.slots() {
            *lock(slot) = Some(Box::new(start()?));
        }
        Ok(pool)
    }

    /// A free instance for a worker thread, its own first.
    pub(super) fn free(&self) -> Option<Held<'_>> {
        let is_full = |slot: &Held<'_>| slot.is_some();
        try_lock(self.workers.own())
            .filter(is_full)
            .or_else(|| self.workers.into_iter().filter_map(|slot| try_lock(slot)).find(is_full))
    }

    /// The slot of the offload thread, which may be empty.
    pub(super) fn offloaded(&self) -> Held<'_> {
        lock(&self.offload)
    }

    /// Whether a slot is empty that no call uses.
    pub(super) fn has_empty(&self) -> bool {
        self.slots().filter_map(try_lock).any(|slot| slot.is_none())
    }

    /// Starts an instance for each empty slot, until one fails.
    pub(super) fn refill(&self, mut start: impl FnMut() -> Result<Instance, Fault>) {
        for slot in self.slots() {
            if !try_lock(slot).is_some_and(|slot| slot.is_none()) {
                continue;
            }
            // The lock is free while the instance starts: no worker thread waits for that.
            let Ok(instance) = start() else { return };
            lock(slot).get_or_insert(Box::new(instance));
        }
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.workers.into_iter().map(|slot| &**slot).chain([&self.offload])
    }
}

// A panic leaves a slot empty, which is a state like any other.

fn lock(slot: &Slot) -> Held<'_> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_lock(slot: &Slot) -> Option<Held<'_>> {
    match slot.try_lock() {
        Ok(slot) => Some(slot),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}
