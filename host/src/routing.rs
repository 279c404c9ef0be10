//! Routing: a packet or a bus message goes to the plugin that serves it, and the plugin's actions are carried out.
//!
//! It may use `delivery`, `plugin` and `bus`. It does not know sockets or files.

mod actions;
mod decision;
pub mod gateway;
mod loops;
pub mod payload_limits;
mod refusal;
pub mod snapshot;
