//! Writes lines to the gateway's log, which shows them with the plugin's name. In native tests the lines go to stderr.
//!
//! By default the gateway keeps the first 4096 bytes of a line, and 100 lines a second for each instance. Further bytes
//! and lines are dropped. The operator changes these limits with `log_line_bytes` and `log_lines_per_s`.

use crate::bindings::imports::gateway::policy::log::Level;

/// Logs a problem that the operator has to fix.
pub fn error(message: &str) {
    write(Level::Error, message);
}

/// Logs a warning that the operator should know of.
pub fn warn(message: &str) {
    write(Level::Warn, message);
}

/// Logs a normal event.
pub fn info(message: &str) {
    write(Level::Info, message);
}

/// Logs a detail for the plugin's author. The gateway shows such lines if it runs with `RUST_LOG=plugin=debug`.
pub fn debug(message: &str) {
    write(Level::Debug, message);
}

#[cfg(target_arch = "wasm32")]
fn write(level: Level, message: &str) {
    crate::bindings::imports::gateway::policy::log::write(level, message);
}

#[cfg(not(target_arch = "wasm32"))]
fn write(level: Level, message: &str) {
    use std::io::Write;
    // A write error means that the test closed its stderr, so the line can be lost.
    let _ = writeln!(std::io::stderr(), "{level:?}: {message}");
}
