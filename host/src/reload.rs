//! Loading and reloading: turns the files of the plugins directory and gateway.yaml into the generations of plugins
//! that serve.
//!
//! The reload thread, the watching of files, the judging of plugin files in child processes, the cache of compiled
//! code, and the choice of the plugins that serve belong here.
//! This module and its submodules may know `config`, `file`, `plugin`, `routing`, `telemetry`, and the name of the
//! allocator's option in `memory`.
//! They must not know sockets, sessions or the bus. Their code runs on separate threads, never on a thread that serves
//! players.

pub mod cache;
pub mod catalog;
pub mod choice;
mod entry;
pub mod inbox;
pub mod judge;
mod plugin_file;
pub mod reloader;
pub mod reports;
pub mod watched;
mod watcher;
