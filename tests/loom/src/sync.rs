//! The host's tools that the queue uses.

#[path = "../../../host/src/sync/wakeup.rs"]
pub mod wakeup;

/// What the host takes from the standard library.
pub mod primitives {
    pub use loom::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    };
    pub use std::sync::PoisonError;
}
