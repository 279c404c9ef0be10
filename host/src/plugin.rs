//! Hosting of plugins: turns the bytes of a WebAssembly file into instances that decide on packets and bus messages.
//!
//! Everything that touches a guest belongs here: compiling and linking, instances and their limits, the health of a
//! plugin, its offload thread, the state that the host keeps for it, and the WASI that guests see.
//! This module and its submodules may know the plugin interface (`wit/`), `sync` and `telemetry`.
//! They must not know sessions, sockets, routing, the bus, or how files are reloaded.

mod bindings;
mod clock;
mod component;
mod decisions;
mod described;
mod fault;
mod generation;
mod handover;
mod health;
mod imports;
mod instance;
mod interface;
mod kept;
mod lease;
mod limits;
mod log;
pub mod offload;
mod pool;
mod rules;
mod settings;
mod start;
mod state;
pub mod store;
mod topics;
pub mod trace;
mod translate;
pub mod trial;
mod usage;
mod wasi;

pub use bindings::{
    Absence, Action, Admission, Alarm, Answer, Arrival, Batch, Closing, Connection, Decision, Delivery, Denial,
    Departure, Ending, Entry, Holder, Interest, Keep, Manifest, Measurement, Membership, Metric, MetricKind, Packet,
    Publication, Rejection, SessionId, Tagging, Target,
};
pub use component::{Compiler, OFFERED, Unfit};
pub use described::{Described, LoadError};
pub use fault::Fault;
pub use generation::Plugin;
pub use health::{CallPermit, Sender};
pub use imports::{ATTRIBUTES, LOG, STATE, TRACING};
pub use interface::Takes;
pub use kept::{Attributes, Keeper, Kept, Standalone};
pub use lease::{Called, Lease};
pub use limits::Limits;
pub use rules::{About, Rules};
pub use settings::Settings;
pub use topics::{HOST_TOPIC, TOPIC_RULE, is_topic};
pub use usage::Usage;
