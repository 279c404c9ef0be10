//! The messages of `gateway.proto`: what the gateway itself says to a client.
#![allow(missing_docs, reason = "generated; the .proto file documents each field")]

include!(concat!(env!("OUT_DIR"), "/gateway.rs"));
