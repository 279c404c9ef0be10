//! Reads the header of the PROXY protocol, versions 1 and 2, in which a proxy names the client of a connection.
//!
//! Not one byte after the header is read, because the bytes after it belong to TLS or HTTP. So the header is read in
//! steps that are not longer than what is certainly missing. The crate proxy-header has a stream that reads ahead and
//! keeps what is left over, but each later layer would pay for this stream.

use crate::{config, telemetry::metrics::Metrics};
use proxy_header::{ParseConfig, ProxyHeader};
use std::{io, net::SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt};

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The length of the shortest header, `PROXY UNKNOWN\r\n`. A header of version 2 has at least one byte more.
const MIN_BYTES: usize = 15;
/// The maximum length of a header of version 1, with the end of the line.
const MAX_V1_BYTES: usize = 107;
/// The length of a header of version 2 without the part whose length it names.
const V2_FIXED_BYTES: usize = 16;
/// The maximum length of a header of version 2. The protocol allows 64 KiB, but addresses and the usual extensions take
/// a few hundred bytes, and certificates of clients a few thousand.
const MAX_V2_BYTES: usize = 16 << 10;
/// The command `LOCAL` of version 2: the proxy itself has opened the connection, for example to check its health.
const LOCAL: u8 = 0x20;

/// Why there is no valid header.
#[derive(Debug, thiserror::Error)]
enum Invalid {
    #[error("the connection ended before its PROXY header: {0}")]
    Gone(#[from] io::Error),
    #[error("the connection ended within its PROXY header")]
    Truncated,
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    #[error("the PROXY header is over {MAX_V1_BYTES} bytes (version 1) or {MAX_V2_BYTES} bytes (version 2)")]
    TooLong,
    #[error("the PROXY header is malformed")]
    Malformed(#[from] proxy_header::Error),
}

/// The address of a client, as far as it is known before its request.
#[derive(Debug, PartialEq, Eq)]
pub struct Client {
    /// The address in the PROXY header if there is one, and otherwise that of the peer.
    pub address: SocketAddr,
    /// Whether `X-Forwarded-For` in the request may be believed. If a proxy that names clients in a PROXY header names
    /// none, it passes bytes on that it does not read. So the header is the client's own.
    pub may_be_forwarded: bool,
}

/// Returns the client of a connection: the one in the PROXY header if `peer` is a proxy that sends one. Returns `None` if
/// the header is not valid. The client then gets no answer, because it is not known whether it speaks HTTP or TLS. The
/// caller sets a timeout.
pub async fn client(
    stream: &mut (impl AsyncRead + Unpin),
    peer: SocketAddr,
    server: &config::Server,
    metrics: &Metrics,
) -> Option<Client> {
    // Clients of IPv4 have IPv6 addresses if the gateway listens on `::`.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    if !server.proxies.send_header(peer.ip()) {
        return Some(Client { address: peer, may_be_forwarded: true });
    }
    let (reason, error) = match read(stream).await {
        Ok(named) => return Some(Client { address: named.unwrap_or(peer), may_be_forwarded: named.is_some() }),
        Err(error @ Invalid::Gone(_)) => ("gone", error),
        Err(error) => ("proxy_header", error),
    };
    metrics.handshake_refused(reason);
    if reason == "gone" {
        // Proxies check the gateway's health in this way.
        tracing::debug!(proxy = %peer, %error, "connection of a proxy refused");
    } else if metrics.log_limits.permit("connection of a proxy refused", &peer.ip().to_string()) {
        tracing::warn!(
            proxy = %peer,
            %error,
            "connection of a proxy refused (let it send PROXY headers, or remove server.proxy_protocol)"
        );
    }
    None
}

/// Reads a header. Returns the client's address, or `None` if the header names none.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, Invalid> {
    let mut header = Vec::with_capacity(MAX_V1_BYTES);
    loop {
        let missing = missing(&header)?;
        if missing == 0 {
            return Ok(parse(&header)?);
        }
        if (&mut *stream).take(missing as u64).read_buf(&mut header).await? == 0 {
            let gone = Invalid::Gone(io::ErrorKind::UnexpectedEof.into());
            return Err(if header.is_empty() { gone } else { Invalid::Truncated });
        }
    }
}

/// Returns a number of bytes that are certainly missing from a header, or 0 if it is complete.
fn missing(header: &[u8]) -> Result<usize, Invalid> {
    let begins = |with: &[u8]| header.iter().zip(with).all(|(byte, expected)| byte == expected);
    if begins(V1) {
        return match header {
            // A malformed header may end earlier than the shortest valid one.
            _ if header.contains(&b'\n') => Ok(0),
            _ if header.len() >= MAX_V1_BYTES => Err(Invalid::TooLong),
            [.., b'\r'] => Ok(1),
            _ => Ok(MIN_BYTES.saturating_sub(header.len()).max(2)),
        };
    }
    if !begins(V2) {
        return Err(Invalid::Missing);
    }
    let Some([.., high, low]) = header.first_chunk::<V2_FIXED_BYTES>() else {
        return Ok(V2_FIXED_BYTES - header.len());
    };
    let total = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
    if total > MAX_V2_BYTES { Err(Invalid::TooLong) } else { Ok(total.saturating_sub(header.len())) }
}

fn parse(header: &[u8]) -> Result<Option<SocketAddr>, proxy_header::Error> {
    if header.starts_with(V2) && header.get(V2.len()) == Some(&LOCAL) {
        // The rest of such a header has no meaning (section 2.2), and proxy-header would check the addresses.
        return Ok(None);
    }
    let (parsed, len) = ProxyHeader::parse(header, ParseConfig { include_tlvs: false, ..ParseConfig::default() })?;
    if len != header.len() {
        return Err(proxy_header::Error::Invalid);
    }
    let source = parsed.proxied_address().map(|address| address.source);
    Ok(source.map(|source| SocketAddr::new(source.ip().to_canonical(), source.port())))
}

#[cfg(test)]
mod tests;
