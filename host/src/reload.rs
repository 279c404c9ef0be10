//! Reload: the files of the plugins directory and gateway.yaml become generations of plugins that serve.
//!
//! It may use `plugin`, `config` and `routing`. It runs on a thread of its own and never on a thread that serves players.

pub mod catalog;
pub mod reloader;
pub mod watched;
