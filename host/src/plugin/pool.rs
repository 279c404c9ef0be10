//! The instances of a generation: one for each worker thread, and one for the offload thread. A worker thread normally
//! finds the lock of its own instance free.
//!
//! The instances are not thread-locals, because an idle thread would keep its thread-local instance after the plugin
//! has been removed.

use super::{described::LoadError, fault::Fault, instance::Instance};
use crate::sync::sharded::Sharded;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// The slot of one instance. It is empty during a call, and stays empty after a call that failed.
type Slot = Mutex<Option<Box<Instance>>>;

/// A slot that the current thread has locked.
pub(super) type Held<'a> = MutexGuard<'a, Option<Box<Instance>>>;

/// All slots of a generation.
pub(super) struct Pool {
    workers: Sharded<Slot>,
    offload: Slot,
}

impl Pool {
    /// Returns a pool with an instance in every slot.
    pub(super) fn filled(mut start: impl FnMut() -> Result<Instance, LoadError>) -> Result<Self, LoadError> {
        let pool = Self { workers: Sharded::default(), offload: Slot::default() };
        for slot in pool.slots() {
            *lock(slot) = Some(Box::new(start()?));
        }
        Ok(pool)
    }

    /// Locks a slot with a free instance for a worker thread. Tries the thread's own slot first. Returns `None` if no
    /// instance is free.
    pub(super) fn free(&self) -> Option<Held<'_>> {
        let is_full = |slot: &Held<'_>| slot.is_some();
        try_lock(self.workers.own())
            .filter(is_full)
            .or_else(|| self.workers.into_iter().filter_map(|slot| try_lock(slot)).find(is_full))
    }

    /// Locks the slot of the offload thread, which may be empty.
    pub(super) fn offloaded(&self) -> Held<'_> {
        lock(&self.offload)
    }

    /// Returns whether any slot that is not in use is empty.
    pub(super) fn has_empty(&self) -> bool {
        self.slots().filter_map(try_lock).any(|slot| slot.is_none())
    }

    /// Starts an instance for each empty slot.
    ///
    /// # Errors
    /// Stops at the first instance that fails to start, and returns its fault.
    pub(super) fn refill(&self, mut start: impl FnMut() -> Result<Instance, Fault>) -> Result<(), Fault> {
        for slot in self.slots() {
            if !try_lock(slot).is_some_and(|slot| slot.is_none()) {
                continue;
            }
            // The slot is not locked while the instance starts, so that no worker thread waits for the start.
            let instance = Box::new(start()?);
            lock(slot).get_or_insert(instance);
        }
        Ok(())
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.workers.into_iter().map(|slot| &**slot).chain([&self.offload])
    }
}

// The two functions below ignore poisoned locks: a panic during a call leaves the slot empty, which is a valid state.

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
