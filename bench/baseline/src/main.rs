//! `gateway-baseline LISTEN REDIS`: what one would write by hand for the same job, to be fast and for nothing else.
//!
//! The usual libraries, the same bytes on the wire and in Redis; no policy, no reload, no metrics, no limits, no reconnect, no drain. Once
//! it listens, it prints the address.

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
        // A session that fails is over; there is nobody to tell.
        tokio::spawn(async move { session::run(stream, &registry, &publisher).await });
    }
}
