//! Routing: a packet or a bus message goes to the plugin that serves it, and the plugin's actions are carried out.
//!
//! It may use `delivery`, `plugin` and `bus`. It does not know sockets or files.

pub mod gateway;
pub mod snapshot;
