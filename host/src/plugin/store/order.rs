//! The order in which the calls of one plugin commit.

use std::sync::{
    Mutex, MutexGuard, PoisonError, TryLockError,
    atomic::{AtomicBool, Ordering},
};

/// The lock on the order.
#[derive(Default)]
pub(super) struct Order {
    lock: Mutex<()>,
    is_held_long: AtomicBool,
}

/// The lock is held as long as this value lives.
pub struct Transaction<'a> {
    _guard: MutexGuard<'a, ()>,
    /// The flag of a transaction that may take milliseconds.
    long: Option<&'a AtomicBool>,
}

impl Order {
    pub(super) fn lock(&self) -> Transaction<'_> {
        Transaction { _guard: self.guard(), long: None }
    }

    pub(super) fn try_lock(&self) -> Option<Transaction<'_>> {
        let guard = match self.lock.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Transaction { _guard: guard, long: None })
    }

    pub(super) fn lock_long(&self) -> Transaction<'_> {
        let guard = self.guard();
        self.is_held_long.store(true, Ordering::Relaxed);
        Transaction { _guard: guard, long: Some(&self.is_held_long) }
    }

    pub(super) fn is_held_long(&self) -> bool {
        self.is_held_long.load(Ordering::Relaxed)
    }

    fn guard(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if let Some(is_held_long) = self.long {
            is_held_long.store(false, Ordering::Relaxed);
        }
    }
}
