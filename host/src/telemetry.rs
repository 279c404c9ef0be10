//! Telemetry: what the gateway counts, the limit on log lines that strangers can cause, and the bound on texts from outside.
//!
//! Every room may use it. It uses only `sync`.

pub mod log_limit;
pub mod metrics;
pub mod text;
