//! Reload: the files of the plugins directory and gateway.yaml become generations of plugins that serve.
//!
//! It may use `plugin`, `config` and `routing`. It runs on threads of its own and never on one that serves players.

pub mod cache;
pub mod catalog;
pub mod choice;
mod entry;
pub mod inbox;
pub mod judge;
pub mod reloader;
pub mod reports;
pub mod watched;
mod watcher;
