//! The bytes that the gateway exchanges with clients and with Redis, pure: no socket, no session, no runtime.
//!
//! Both ends of each protocol are here. The host, the client, the load generator, the benchmark and the tests share
//! this code, so a field has one place and one reader.

pub mod packet;
pub mod resp;
pub mod websocket;
