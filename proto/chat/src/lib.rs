//! The messages of `common.proto` and `chat.proto`, which chat clients and backends exchange through the gateway.
#![allow(missing_docs, reason = "generated; the .proto files document each field")]

pub mod common {
    include!(concat!(env!("OUT_DIR"), "/common.rs"));
}

pub mod chat {
    include!(concat!(env!("OUT_DIR"), "/chat.rs"));
}
