//! Routing: finds the plugin that serves a packet or a bus message, calls it, and carries out its actions.
//!
//! In the order in which a call goes through them:
//!
//! - What leads to a call: `gateway` for packets and bus messages, `hooks` for the beginning and the end of sessions,
//!   `presence` for clients that go away and come back, and `wakes` for timers. `messages` serves the messages of the bus
//!   in their order, `early` makes decisions on them before their turn, and `pause` says when not to. `batches` makes
//!   decisions on packets that have arrived together, which `asked` holds.
//! - The call: `calls` says what it is about, `origin` names the packet that caused it, `serving` makes it, and `progress`
//!   says what is left of it for another thread. `snapshot` holds the plugins that serve.
//! - The decision: `decision` checks it, `bounds` checks what the plugin may keep, `loops` limits publishes that lead back
//!   to the message that caused them, and `refusal` lists why a call is not served.
//! - The effects: `actions` carries out the decision as a whole, with `effects` for single actions. `reach` counts the
//!   messages of the bus.
//! - What is kept: `accounts` for each plugin over all its generations, `timers` its timers, `interests` the topics that
//!   sessions and groups want to hear, `views` what plugins know of clients that are away, and `payload_limits` the
//!   largest payload of each route.
//! - Between gateways: `closings` closes sessions for operators, and `handovers` moves sessions.
//!
//! Modules of this folder may use `plugin`, `delivery`, `bus`, `sync` and `telemetry`. They do not know
//! sockets, files, Redis or `reload`.

pub mod accounts;
mod actions;
pub mod asked;
pub mod batches;
mod bounds;
mod calls;
pub mod closings;
mod decision;
mod early;
mod effects;
mod gaps;
pub mod gateway;
pub mod handovers;
pub mod hooks;
mod interests;
mod loops;
mod messages;
pub mod origin;
mod pause;
pub mod payload_limits;
mod presence;
mod progress;
mod reach;
pub mod refusal;
mod serving;
pub mod snapshot;
pub mod timers;
mod traced;
pub mod turn;
mod views;
mod wakes;
