//! The messages of `gateway.proto`, which the gateway itself sends to clients.
#![allow(missing_docs, reason = "generated; the .proto file documents each field")]

include!(concat!(env!("OUT_DIR"), "/gateway.rs"));
