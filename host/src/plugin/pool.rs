//! A generation's instances: one per worker thread, so that the lock is free whenever it is taken. Not thread-locals: those would outlive the
//! plugin on threads that have nothing to do.

use super::{LoadError, instance::Instance};
use crate::sync::sharded::Sharded;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Where an instance waits for its next call. Empty once it failed.
type Slot = Mutex<Option<Box<Instance>>>;

/// A slot that nobody else uses meanwhile.
pub(super) type Held<'a> = MutexGuard<'a, Option<Box<Instance>>>;

/// All of a generation's slots.
pub(super) struct Pool(Sharded<Slot>);

impl Pool {
    /// A pool without empty slots.
    pub(super) fn filled(mut start: impl FnMut() -> Result<Instance, LoadError>) -> Result<Self, LoadError> {
        let slots = Sharded::<Slot>::default();
        for slot in &slots {
            *lock(slot) = Some(Box::new(start()?));
        }
        Ok(Self(slots))
    }

    /// An instance that waits, this thread's first. Nothing where all are in use or gone.
    pub(super) fn waiting(&self) -> Option<Held<'_>> {
        let waits = |slot: &Held<'_>| slot.is_some();
        try_lock(self.0.own())
            .filter(waits)
            .or_else(|| self.0.into_iter().filter_map(|slot| try_lock(slot)).find(waits))
    }

    /// A slot in which an instance is to be started, or, where none is empty, one that waits.
    pub(super) fn empty_or_waiting(&self) -> Held<'_> {
        let empty = self.0.into_iter().filter_map(|slot| try_lock(slot)).find(|slot| slot.is_none());
        empty.or_else(|| self.waiting()).unwrap_or_else(|| lock(self.0.own()))
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
