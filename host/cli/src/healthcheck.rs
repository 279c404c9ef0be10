//! Asks the gateway on this machine how it is, for containers that have no `curl`.

use anyhow::{Context, bail};
use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// The time that the gateway has to accept the connection, and to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Returns the answer of the gateway whose admin listener has this address to the question whether it lives, or, with
/// `ready`, whether it is ready.
///
/// # Errors
/// Returns an error if the gateway does not answer, or if the answer is no.
pub(crate) fn ask(listen: SocketAddr, ready: bool) -> anyhow::Result<()> {
    let (path, what) = if ready { ("/readyz", "ready") } else { ("/healthz", "healthy") };
    let address = reachable(listen);
    let status = status(address, path).with_context(|| format!("the gateway at {address} does not answer {path}"))?;
    if status != "200" {
        bail!("the gateway at {address} is not {what}: {path} answers {status}");
    }
    Ok(())
}

fn status(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    // One write, so that the gateway reads the request in one piece.
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.split(' ').nth(1).context("the answer is not HTTP")?.to_owned())
}

/// Returns an address to connect to. A gateway that listens on all addresses listens on the loopback address as well.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
