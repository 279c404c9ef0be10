//! The parts of the host's module `sync` that the queue uses.

#[path = "../../../host/src/sync/wakeup.rs"]
pub mod wakeup;

/// The locks and atomics of loom. They replace those that the host takes from the standard library.
pub mod primitives {
    pub use loom::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    };
    pub use std::sync::PoisonError;
}
