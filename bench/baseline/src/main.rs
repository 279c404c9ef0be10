//! `gateway-baseline LISTEN REDIS`: a gateway for the same job, written by hand to be fast and for nothing else.
//!
//! It uses the usual libraries, and sends the same bytes to clients and to Redis. It shares no code with the gateway,
//! not even the packet header, so that the comparison is with what an author would write alone. It has no policy, no
//! reload, no metrics, no limits, no reconnect and no drain. It prints its address once it listens.

mod bus;
mod registry;
mod session;

use std::env;
use std::io::{Write, stdout};
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;

use self::registry::Registry;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let (listen, redis) = arguments.next().zip(arguments.next()).context("usage: gateway-baseline LISTEN REDIS")?;
    let registry = Arc::new(Registry::default());
    let (publisher, mut publishing) = bus::connect(&redis, Arc::clone(&registry)).await?;
    let listener = TcpListener::bind(listen).await?;
    writeln!(stdout(), "listening on {}", listener.local_addr()?)?;
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            ended = &mut publishing => return ended?,
        };
        let (registry, publisher) = (Arc::clone(&registry), publisher.clone());
        // A session that fails has ended, and the error is of no use to anybody.
        tokio::spawn(async move { session::run(stream, &registry, &publisher).await });
    }
}
