//! From a TCP connection to a WebSocket: the HTTP upgrade (RFC 6455, 4.2), with an answer for whatever else comes.

use crate::net::auth::{Denied, Verifier};
use httparse::{EMPTY_HEADER, Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tungstenite::handshake::derive_accept_key;

/// The largest request that is read.
const REQUEST_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;
const PATH: &str = "/ws";

/// A finished upgrade.
#[derive(Debug)]
pub struct Upgraded {
    /// What the client sent after its request.
    pub early: Vec<u8>,
    /// The user that its token names.
    pub user: Option<i32>,
}

/// Why a connection became no WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It ended or broke before its request was complete.
    #[error("the connection ended during the handshake: {0}")]
    Gone(#[from] std::io::Error),
    /// Not HTTP.
    #[error("not an HTTP request: {0}")]
    NotHttp(httparse::Error),
    /// More than a request may have.
    #[error("the request is over {REQUEST_BYTES} bytes or {HEADERS} headers")]
    TooLarge,
    /// Another path.
    #[error("there is only {PATH} here")]
    NotFound,
    /// Not an upgrade.
    #[error("{0}")]
    BadUpgrade(&'static str),
    /// Another version of the protocol.
    #[error("the WebSocket version is 13")]
    Version,
    /// Not authenticated.
    #[error(transparent)]
    Denied(#[from] Denied),
}

impl Refused {
    /// The label of `gateway_handshakes_refused_total`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Gone(_) => "gone",
            Self::NotHttp(_) => "not_http",
            Self::TooLarge => "too_large",
            Self::NotFound => "not_found",
            Self::BadUpgrade(_) | Self::Version => "bad_upgrade",
            Self::Denied(_) => "denied",
        }
    }

    fn status(&self) -> Option<&'static str> {
        match self {
            Self::Gone(_) => None,
            Self::NotHttp(_) | Self::BadUpgrade(_) => Some("400 Bad Request"),
            Self::TooLarge => Some("431 Request Header Fields Too Large"),
            Self::NotFound => Some("404 Not Found"),
            Self::Version => Some("426 Upgrade Required\r\nSec-WebSocket-Version: 13"),
            Self::Denied(_) => Some("401 Unauthorized\r\nWWW-Authenticate: Bearer"),
        }
    }
}

/// Reads the request and answers it. Runs under a timeout of the caller's.
///
/// # Errors
/// [`Refused`], once the client has been told.
pub async fn upgrade(stream: &mut TcpStream, verifier: Option<&Verifier>) -> Result<Upgraded, Refused> {
    match negotiate(stream, verifier).await {
        Ok((key, upgraded)) => {
            let accept = derive_accept_key(&key);
            let response = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            stream.write_all(response.as_bytes()).await?;
            Ok(upgraded)
        }
        Err(refused) => {
            if let Some(status) = refused.status() {
                let body = format!("{refused}\n");
                let length = body.len();
                let response = format!(
                    "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
                );
                stream.write_all(response.as_bytes()).await?;
            }
            Err(refused)
        }
    }
}

async fn negotiate(stream: &mut TcpStream, verifier: Option<&Verifier>) -> Result<(Vec<u8>, Upgraded), Refused> {
    let mut received = Vec::with_capacity(1024);
    loop {
        if received.len() >= REQUEST_BYTES {
            return Err(Refused::TooLarge);
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Err(Refused::Gone(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let mut headers = [EMPTY_HEADER; HEADERS];
        let mut request = Request::new(&mut headers);
        match request.parse(&received) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(end)) => {
                let key = check(&request)?;
                let user = verifier.map(|verifier| verifier.user(token(&request))).transpose()?;
                return Ok((key, Upgraded { early: received[end..].to_vec(), user }));
            }
            Err(httparse::Error::TooManyHeaders) => return Err(Refused::TooLarge),
            Err(error) => return Err(Refused::NotHttp(error)),
        }
    }
}

/// The request's `Sec-WebSocket-Key`, if it is an upgrade on the right path.
fn check(request: &Request<'_, '_>) -> Result<Vec<u8>, Refused> {
    let path = request.path.unwrap_or_default();
    if path.split('?').next() != Some(PATH) {
        return Err(Refused::NotFound);
    }
    if request.method != Some("GET") || request.version != Some(1) {
        return Err(Refused::BadUpgrade("a WebSocket begins with GET and HTTP/1.1"));
    }
    if !lists(request, "connection", "upgrade") || !lists(request, "upgrade", "websocket") {
        return Err(Refused::BadUpgrade("a WebSocket begins with `Connection: Upgrade` and `Upgrade: websocket`"));
    }
    if header(request, "sec-websocket-version") != Some("13") {
        return Err(Refused::Version);
    }
    match header(request, "sec-websocket-key") {
        Some(key) if is_key(key) => Ok(key.as_bytes().to_vec()),
        _ => Err(Refused::BadUpgrade("`Sec-WebSocket-Key` has to be 16 bytes in base64")),
    }
}

/// 16 bytes in base64 are 22 characters and 2 of padding.
fn is_key(key: &str) -> bool {
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.ends_with("==") && key.bytes().take(22).all(base64)
}

fn header<'a>(request: &Request<'_, 'a>, name: &str) -> Option<&'a str> {
    let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(header.value).ok().map(str::trim)
}

fn lists(request: &Request<'_, '_>, name: &str, wanted: &str) -> bool {
    let named = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    named
        .filter_map(|header| std::str::from_utf8(header.value).ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(wanted))
}

fn token<'a>(request: &Request<'_, 'a>) -> Option<&'a str> {
    let bearer = header(request, "authorization").and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    bearer.or_else(|| {
        let (_, query) = request.path?.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix("token="))
    })
}
