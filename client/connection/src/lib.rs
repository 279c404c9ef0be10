//! A connection to a gateway, as its clients have it: the address, the WebSocket in packets, the session that survives its
//! connections, and the text of strangers made fit for a terminal.
//!
//! The commands of `gateway-client` use all of it. The load generator opens sockets of its own and uses the rest.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod connection;
mod counts;
mod end;
mod ended;
mod endpoint;
mod interrupt;
mod live;
mod open_error;
mod route;
mod sent;
mod session;
mod state;
mod stream;
mod target;
pub mod text;
mod tls;

pub use connection::{Connection, MAX_PAYLOAD_BYTES, Received};
pub use ended::Ended;
pub use endpoint::Endpoint;
pub use interrupt::interrupted;
pub use open_error::OpenError;
pub use route::route;
pub use session::{Event, Session};
pub use target::Target;
pub use tls::Tls;
