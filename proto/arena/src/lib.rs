//! The messages of `arena.proto`, between the plugin `arena` and its clients.
#![allow(missing_docs, reason = "generated; the .proto file documents each message")]

include!(concat!(env!("OUT_DIR"), "/arena.rs"));
