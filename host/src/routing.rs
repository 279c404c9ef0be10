//! Routing: finds the plugin that serves a packet or a bus message, calls it, and carries out its actions.
//!
//! `gateway` is the entry for packets and bus messages. `snapshot` holds the plugins that serve. `decision` checks what
//! a plugin decided, and `actions` carries out the decision. `refusal` lists the reasons why a packet is not served.
//! `loops` limits publishes that lead back to the message that caused them. `origin` names the packet that caused a
//! publish. `payload_limits` holds the largest payload of each route.
//!
//! Modules of this folder may use `plugin`, `delivery`, `bus`, `sync` and `telemetry`. They do not know
//! sockets, files, Redis or `reload`.

mod actions;
mod decision;
pub mod gateway;
mod loops;
pub mod origin;
pub mod payload_limits;
mod refusal;
pub mod snapshot;
