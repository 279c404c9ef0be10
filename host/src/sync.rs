//! Small concurrency tools: a value per thread, the wake-up of a queue's receiver, a clock that fits into an atomic.
//!
//! Every room may use them. They use nothing of this crate.

pub mod sharded;
pub mod uptime;
pub mod wakeup;
