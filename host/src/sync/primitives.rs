//! The locks and atomics that the bus's queue uses. They have a module of their own, so that `tests/loom` can replace
//! them with those of loom.

pub use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};
