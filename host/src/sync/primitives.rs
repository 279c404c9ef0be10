//! The locks and atomics of the bus's queue, from one place, so that `tests/loom` can replace them with those of loom.

pub use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};
