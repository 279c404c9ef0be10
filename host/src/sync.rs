//! Small concurrency tools: a value per thread, a limit on a rate, the wake-up of a queue's receiver, a clock that fits into an atomic.
//!
//! Every room may use them. They use nothing of this crate.

pub mod rate_limit;
pub mod sharded;
pub mod uptime;
pub mod wakeup;
