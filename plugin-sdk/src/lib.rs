//! The SDK for gateway plugins in Rust.
//!
//! A plugin is a type that implements [`Plugin`] and the traits of the calls that it needs: [`Policy`] for packets,
//! [`Hearing`] for bus messages, [`Sessions`] for the beginning and the end of sessions, [`Presence`] for clients that go
//! away and come back, and [`Timers`]. [`export!`] turns the crate into a plugin. Each call returns the actions that the gateway carries out. Since a plugin carries
//! out nothing itself, [`testing::Harness`] can test it natively, without a gateway.
//!
//! ```
//! use gateway_plugin_sdk::{Action, NoConfig, Packet, Plugin, Policy, Rejection, Settings, export, testing::Harness};
//!
//! /// Answers each packet on route 0x20 with its payload in capitals.
//! struct Shout;
//!
//! impl Plugin for Shout {
//!     const NAME: &str = "shout";
//!     const ROUTES: &[u8] = &[0x20];
//!     type Config = NoConfig;
//!
//!     fn configure(_: Settings<NoConfig>) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//! }
//!
//! impl Policy for Shout {
//!     fn on_packet(&mut self, _: &Packet, payload: &[u8]) -> Result<Vec<Action>, Rejection> {
//!         let text = std::str::from_utf8(payload).map_err(|_| Rejection::malformed("the payload is not UTF-8"))?;
//!         Ok(vec![Action::reply(text.to_uppercase())])
//!     }
//! }
//!
//! export!(Shout: Policy);
//!
//! let mut shout = Harness::<Shout>::new("{}").unwrap();
//! assert_eq!(shout.packet(0x20, b"hello"), Ok(vec![Action::reply("HELLO")]));
//! assert_eq!(shout.packet(0x20, b"\xff").unwrap_err().status, 2);
//! ```
//!
//! To build the plugin, set `crate-type = ["cdylib"]` and run `cargo build --release --target wasm32-wasip2`. Then copy
//! the `.wasm` file into the gateway's plugins directory.

/// Compiles the examples of the guide for authors.
#[cfg(doctest)]
#[doc = include_str!("../../docs/plugins.md")]
mod guide {}

mod action;
pub mod attributes;
#[doc(hidden)]
pub mod bindings;
mod export;
pub mod log;
mod plugin;
pub mod protobuf;
mod rejection;
#[doc(hidden)]
pub mod release;
mod session_id;
mod settings;
pub mod state;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod tracing;

pub use bindings::{
    imports::gateway::policy::types::{
        Action, Alarm, Answer, Closing, Delivery, Ending, Entry, Holder, Interest, Keep, Measurement, Membership,
        Packet, Publication, Rejection, SessionId, Tagging, Target,
    },
    plugin::exports::gateway::policy::plugin::{Manifest, MetricKind},
    presence::exports::gateway::policy::presence::{Absence, Arrival},
    sessions::exports::gateway::policy::sessions::{Admission, Connection, Denial, Departure},
};
#[doc(hidden)]
pub use export::{Calls, Component, Exported, Instance};
pub use plugin::{Hearing, Metric, Plugin, Policy, Presence, Sessions, Timers};
pub use rejection::Status;
pub use session_id::NotASessionId;
pub use settings::{NoConfig, Settings};
