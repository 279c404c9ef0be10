//! `gateway-client send`: sends one packet on any route, and prints every packet up to its reply.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{anyhow, ensure};
use gateway_connection::{Connection, Received, Target};
use gateway_wire::packet::{Packet, Status};
use tokio::time::timeout;

use crate::show;

/// The time that the reply may take.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// The seq of the packet.
const SEQ: u32 = 1;

/// Send one packet on any route, and show what comes back
///
/// Exit status: 0 if it was served, 1 if it was refused, or not answered within 5 s.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The route byte, in decimal or in hexadecimal, such as 16 or 0x10
    #[arg(value_parser = gateway_connection::route)]
    route: u8,
    /// The payload
    text: String,
    #[command(flatten)]
    target: Target,
}

/// Sends the packet, and prints every packet up to its reply.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let mut connection = Connection::open(&options.target).await?;
    let packet = Packet::request(SEQ, options.route, options.text.into_bytes());
    let outcome = timeout(REPLY_TIMEOUT, exchange(&mut connection, &packet, &mut io::stdout().lock())).await;
    connection.close().await;
    let reply = outcome.map_err(|_| anyhow!("no reply within {} s", REPLY_TIMEOUT.as_secs()))??;
    ensure!(reply.header.status == Status::Ok as u16, "it was refused");
    Ok(())
}

async fn exchange(connection: &mut Connection, packet: &Packet, out: &mut impl Write) -> anyhow::Result<Packet> {
    connection.send(packet).await?;
    loop {
        let received = connection.receive().await?;
        writeln!(out, "{}", show::received(&received))?;
        if let Received::Packet(reply) = received
            && reply.header.is_reply()
            && reply.header.seq == SEQ
        {
            return Ok(reply);
        }
    }
}

#[cfg(test)]
mod tests {
    use gateway_stand_in::gateway;

    use super::*;

    #[tokio::test]
    async fn everything_up_to_the_reply_is_shown() {
        let (url, task) = gateway(async |mut peer| {
            peer.welcome("s").await;
            let request = peer.request().await;
            assert_eq!(request, Packet::request(1, 77, "hi"));
            peer.send(&request.reply(4, "not now")).await;
            assert_eq!(peer.closed().await, Some(1000));
        })
        .await;
        let target = Target { url: url.parse().unwrap(), token: None, ca: None };
        let mut connection = Connection::open(&target).await.unwrap();
        let mut out = Vec::new();
        let reply = exchange(&mut connection, &Packet::request(SEQ, 77, "hi"), &mut out).await.unwrap();
        connection.close().await;
        task.await.unwrap();
        assert_eq!(reply.header.status, 4);
        let lines = String::from_utf8(out).unwrap();
        assert_eq!(lines.lines().nth(1), Some("< reply #1 route 0x4d  status 4 rejected: not now"), "{lines}");
    }
}
