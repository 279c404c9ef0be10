//! Small concurrency tools: a value for each thread, limits on rates, the wake-up of a queue's receiver, clocks,
//! and the locks and atomics that the loom tests replace.
//!
//! A tool belongs here if it knows nothing of gateways. Modules of this folder use nothing else of this crate.

pub mod half_open;
pub mod moment;
pub mod primitives;
pub mod rate_limit;
pub mod sharded;
pub mod token_bucket;
pub mod uptime;
pub mod wakeup;
