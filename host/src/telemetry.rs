//! Telemetry: metrics, the log and its last lines, the limit on log lines that strangers can cause, and the bound on texts
//! from outside.
//!
//! Code belongs here if it counts events for the operator or keeps the log readable. Modules of this folder may use
//! `sync`. They do not know `net`, `routing`, `delivery`, `plugin`, `bus` or `reload`, although metrics are named after
//! these modules.

pub mod log;
pub mod log_limit;
pub mod metrics;
pub mod recent_log;
pub mod text;
