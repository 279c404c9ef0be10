//! The backends' end: Redis, as one connection that publishes and one that subscribes.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::timeout;

use super::resp::{self, Reply};
use super::socket::{Outlet, Reader, receive};
use crate::show;

/// Where gateways take deliveries from.
pub(super) const DELIVERIES: &str = "broadcast";

/// To connect, and to get the first answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where the requests of a game are published.
pub(super) fn requests_of(game_id: &str) -> String {
    format!("game:request:{game_id}")
}

/// A subscription to one channel.
pub(super) struct Subscriber {
    pub(super) reader: Reader,
    /// To drop it would end the connection.
    pub(super) write: OwnedWriteHalf,
}

/// A connection for publishes that are not answered.
pub(super) struct Publisher {
    pub(super) outlet: Outlet,
    /// Nothing comes in but its end.
    pub(super) reader: Reader,
}

/// Subscribes, and waits until Redis has confirmed it.
pub(super) async fn subscribe(address: &str, channel: &str) -> anyhow::Result<Subscriber> {
    let (reader, write) = ask(address, &[&[b"SUBSCRIBE", channel.as_bytes()]], Reply::Subscribed).await?;
    Ok(Subscriber { reader, write })
}

/// Without answers, which say no more than how many gateways are subscribed, Redis and this program have half the work.
pub(super) async fn publisher(address: &str) -> anyhow::Result<Publisher> {
    let commands: [&[&[u8]]; 2] = [&[b"PING"], &[b"CLIENT", b"REPLY", b"OFF"]];
    let (reader, write) = ask(address, &commands, Reply::Status(b"PONG")).await?;
    Ok(Publisher { outlet: Outlet::new(write), reader })
}

/// Connects, sends the commands and waits for the one answer that is expected.
async fn ask(address: &str, commands: &[&[&[u8]]], expected: Reply<'_>) -> anyhow::Result<(Reader, OwnedWriteHalf)> {
    let asking = async {
        let mut tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let commands: Vec<u8> = commands.iter().flat_map(|words| resp::command(words)).collect();
        tcp.write_all(&commands).await?;
        let mut received = Vec::new();
        let answer = receive(&mut tcp, &mut received, |received| match resp::parse(received)? {
            None => Ok(None),
            Some((reply, length)) if reply == expected => Ok(Some(length)),
            Some((Reply::Error(error), _)) => bail!("it answers {}", show::text(&String::from_utf8_lossy(error))),
            Some(_) => bail!("its answer makes no sense"),
        });
        let length = answer.await?;
        received.drain(..length);
        let (half, write) = tcp.into_split();
        anyhow::Ok((Reader { half, received }, write))
    };
    match timeout(TIMEOUT, asking).await {
        Ok(outcome) => outcome.with_context(|| format!("--redis {address}: no use of it as Redis")),
        Err(_) => bail!("--redis {address} did not answer within {} s; is it Redis?", TIMEOUT.as_secs()),
    }
}
