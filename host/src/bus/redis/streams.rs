//! Topics that are streams of Redis instead of channels. Redis keeps their entries, so a break loses nothing.
//!
//! An entry has two fields: the payload, and an id that is the same if the entry is written again. The id is the name of
//! the writer, a hyphen, and a number that grows with each entry of the writer. The writer is a UUID of the process,
//! and in a Cluster of the process and the slot. Entries of other writers may have no id.

pub(super) mod appends;
mod history;
mod position;
pub(super) mod reader;
mod seen;
mod server;

/// The field of an entry with the id.
const ID: &str = "id";

/// The field of an entry with the payload.
const PAYLOAD: &str = "payload";
