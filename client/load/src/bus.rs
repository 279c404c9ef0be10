//! The connections to Redis, where the load plays the backends: one publishes and one subscribes.

use std::time::Duration;

use anyhow::{Context, bail};
use gateway_connection::text;
use gateway_wire::resp::{self, Frame, Parsed};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::timeout;

use crate::socket::{Outlet, Reader, receive};

/// The topic from which gateways take deliveries.
pub(crate) const DELIVERIES: &str = "broadcast";

/// The time that it may take to connect and to get the first answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The topic on which the requests of a game are published.
pub(crate) fn requests_of(game_id: &str) -> String {
    format!("game:request:{game_id}")
}

/// A connection with a subscription to one topic.
pub(crate) struct Subscriber {
    pub(crate) reader: Reader,
    /// The other half of the connection. Dropping it would end the connection.
    pub(crate) write: OwnedWriteHalf,
}

/// A connection for publishes that are not answered.
pub(crate) struct Publisher {
    pub(crate) outlet: Outlet,
    /// Reads nothing but the end of the connection.
    pub(crate) reader: Reader,
}

/// Subscribes, and waits until Redis has confirmed the subscription.
pub(crate) async fn subscribe(address: &str, topic: &str) -> anyhow::Result<Subscriber> {
    let confirms =
        |frame: &Frame<'_>| matches!(frame, Frame::List(parts) if parts.starts_with(&[Frame::Text(b"subscribe")]));
    let (reader, write) = ask(address, &[&[b"SUBSCRIBE", topic.as_bytes()]], confirms).await?;
    Ok(Subscriber { reader, write })
}

/// Connects, and turns the answers to publishes off. An answer only says how many gateways are subscribed, and without
/// answers Redis and this program have half the work.
pub(crate) async fn publisher(address: &str) -> anyhow::Result<Publisher> {
    let commands: [&[&[u8]]; 2] = [&[b"PING"], &[b"CLIENT", b"REPLY", b"OFF"]];
    let (reader, write) = ask(address, &commands, |frame| *frame == Frame::Text(b"PONG")).await?;
    Ok(Publisher { outlet: Outlet::new(write, None), reader })
}

/// Connects, sends the commands and waits for the one answer that is expected.
async fn ask(
    address: &str,
    commands: &[&[&[u8]]],
    is_expected: impl Fn(&Frame<'_>) -> bool,
) -> anyhow::Result<(Reader, OwnedWriteHalf)> {
    let asking = async {
        let mut tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let mut out = Vec::new();
        commands.iter().for_each(|parts| resp::command(&mut out, parts));
        tcp.write_all(&out).await?;
        let mut received = Vec::new();
        let answer = receive(&mut tcp, &mut received, |received| match resp::parse(received)? {
            Parsed::Partial { .. } => Ok(None),
            Parsed::Whole(frame, length) if is_expected(&frame) => Ok(Some(length)),
            Parsed::Whole(Frame::Error(error), _) => {
                bail!("it answers {}", text::clean(&String::from_utf8_lossy(error)))
            }
            Parsed::Whole(..) => bail!("its answer makes no sense"),
        });
        let length = answer.await?;
        received.drain(..length);
        let (half, write) = tcp.into_split();
        anyhow::Ok((Reader { half, tls: None, received }, write))
    };
    match timeout(TIMEOUT, asking).await {
        Ok(outcome) => outcome.with_context(|| format!("--redis {address}: no use of it as Redis")),
        Err(_) => bail!("--redis {address} did not answer within {} s; is it Redis?", TIMEOUT.as_secs()),
    }
}
