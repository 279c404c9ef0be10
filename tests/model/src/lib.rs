//! A model of how a session moves to another gateway, and an exhaustive search of its states.
//!
//! The model has the steps of `host/src/routing/handovers.rs`, of the outbox, and of the session's task. A test visits
//! every state that a few clients, messages and faults can lead to. A [`Rules`](rules::Rules) says how many of them there
//! are, and which rule of the protocol is broken on purpose.
//!
//! The crate `stateright` was rejected. It has no property for a goal that some path reaches from every state, and its
//! `eventually` overlooks cycles. It would also bring an HTTP server.

pub mod gateway;
pub mod line;
pub mod outbox;
pub mod properties;
pub mod rules;
pub mod search;
pub mod steps;
pub mod world;
