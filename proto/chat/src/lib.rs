//! The messages of `common.proto` and `chat.proto`, for chat clients and backends.
#![allow(missing_docs, reason = "generated; the .proto files document each field")]

pub mod common {
    include!(concat!(env!("OUT_DIR"), "/common.rs"));
}

pub mod chat {
    include!(concat!(env!("OUT_DIR"), "/chat.rs"));
}
