//! Hosting of plugins: turns the bytes of a WebAssembly file into instances that decide on packets and bus messages.
//!
//! Everything that touches a guest belongs here: compiling and linking, instances and their limits, the health of a
//! plugin, its offload thread, and the WASI that guests see.
//! This module and its submodules may know the plugin interface (`wit/policy.wit`), `sync` and `telemetry`.
//! They must not know sessions, sockets, routing, the bus, or how files are reloaded.

mod bindings;
mod clock;
mod component;
mod described;
mod fault;
mod generation;
mod health;
mod instance;
mod limits;
pub mod offload;
mod pool;
mod settings;
mod state;
mod topics;
pub mod trace;
pub mod trial;
mod wasi;

pub use bindings::{Action, Answer, Closing, Delivery, Manifest, Packet, Publication, Rejection, SessionId, Target};
pub use component::{Compiler, LOG, OFFERED, POLICY, Unfit};
pub use described::{Described, LoadError};
pub use fault::Fault;
pub use generation::{Lease, Plugin, Usage};
pub use health::{Admission, Sender};
pub use instance::Decision;
pub use limits::Limits;
pub use settings::Settings;
pub use topics::{TOPIC_RULE, is_topic};
