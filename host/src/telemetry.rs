//! Telemetry: metrics, the limit on log lines that strangers can cause, and the bound on texts from outside.
//!
//! Code belongs here if it counts events for the operator or keeps the log readable. Every module may use this folder.
//! Its modules may use `sync`. They do not know `net`, `routing`, `delivery`, `plugin`, `bus` or `reload`, although
//! metrics are named after them.

pub mod log_limit;
pub mod metrics;
pub mod text;
