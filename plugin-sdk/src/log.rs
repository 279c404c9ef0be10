//! The plugin's log lines, which appear in the gateway's log with the plugin's name. In native tests they go to stderr.

use crate::bindings::gateway::policy::log::Level;

/// Something the operator has to mend.
pub fn error(message: &str) {
    write(Level::Error, message);
}

/// Something the operator should know.
pub fn warn(message: &str) {
    write(Level::Warn, message);
}

/// Something worth a line.
pub fn info(message: &str) {
    write(Level::Info, message);
}

/// Something for the plugin's author. The gateway shows it with `RUST_LOG=plugin=debug`.
pub fn debug(message: &str) {
    write(Level::Debug, message);
}

#[cfg(target_arch = "wasm32")]
fn write(level: Level, message: &str) {
    crate::bindings::gateway::policy::log::write(level, message);
}

#[cfg(not(target_arch = "wasm32"))]
fn write(level: Level, message: &str) {
    use std::io::Write;
    // A test that closed its stderr does not want to see it.
    let _ = writeln!(std::io::stderr(), "{level:?}: {message}");
}
