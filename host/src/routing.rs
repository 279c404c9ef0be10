//! Routing: finds the plugin that serves a packet or a bus message, calls it, and carries out its actions.
//!
//! `gateway` is the entry for packets and bus messages, `hooks` for the beginning and the end of sessions, `presence` for
//! clients that go away and come back, and `wakes` for timers. All of them make a call (`calls`) and hand it to `serving`. `snapshot` holds the plugins that serve, and
//! `accounts` what is kept for each plugin over all its generations. `decision` checks what a plugin decided, `bounds`
//! what it may keep, and `actions` carries out the decision as a whole, with `effects` for single actions. `refusal`
//! lists the reasons why a call is not served. `loops` limits publishes that lead back to the message that caused them.
//! `origin` names the packet that caused a publish. `progress` says what is left of a call for another thread. `reach`
//! counts the messages of the bus. `messages` serves them, `early` makes decisions on them before their turn, and `pause`
//! says when not to. `batches` makes decisions on packets that have arrived together, in one call, and `asked` holds them. `interests` holds the
//! topics that sessions and groups want to hear.
//! `closings` closes sessions for operators, on this gateway and on the others.
//! `handovers` moves sessions between this gateway and others.
//! `views` holds what plugins know of clients that are away. `timers` holds the timers of a plugin. `payload_limits` holds the largest payload of each route.
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
