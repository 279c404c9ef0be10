//! The HTTP upgrade from a TCP connection to a WebSocket (RFC 6455, 4.2). Every other request gets an HTTP error.

use crate::net::auth::{Denied, Verifier};
use httparse::{EMPTY_HEADER, Request};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tungstenite::handshake::derive_accept_key;

/// The largest request in bytes that is accepted.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// The largest number of headers that a request may have.
const MAX_HEADERS: usize = 64;
/// The only path that is served.
const PATH: &str = "/ws";

/// The outcome of a successful upgrade.
#[derive(Debug)]
pub struct Upgraded {
    /// The bytes that the client sent right after its request.
    pub early: Vec<u8>,
    /// The user that the client's token names, or `None` if no tokens are checked.
    pub user: Option<i32>,
}

/// Why a connection did not become a WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The connection ended or broke during the handshake.
    #[error("the connection ended during the handshake: {0}")]
    Gone(#[from] std::io::Error),
    /// The client's bytes are not an HTTP request.
    #[error("not an HTTP request: {0}")]
    NotHttp(httparse::Error),
    /// The request has too many bytes or too many headers.
    #[error("the request is over {MAX_REQUEST_BYTES} bytes or {MAX_HEADERS} headers")]
    TooLarge,
    /// The request is for a path that is not served.
    #[error("the only path is {PATH}")]
    NotFound,
    /// The request is not a valid WebSocket upgrade.
    #[error("{0}")]
    BadUpgrade(&'static str),
    /// The client asks for another version of the WebSocket protocol.
    #[error("the WebSocket version is 13")]
    Version,
    /// The client is not authenticated.
    #[error(transparent)]
    Denied(#[from] Denied),
}

impl Refused {
    /// Returns the label of `gateway_handshakes_refused_total`.
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

/// Reads the client's request and answers it. The caller sets a timeout.
///
/// # Errors
/// Returns a [`Refused`] that says why there is no WebSocket. The client has received its answer by then, unless the
/// connection broke.
pub async fn upgrade(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    verifier: Option<&Verifier>,
) -> Result<Upgraded, Refused> {
    match negotiate(stream, verifier).await {
        Ok((key, upgraded)) => {
            let accept = derive_accept_key(&key);
            let response = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            stream.write_all(response.as_bytes()).await?;
            Ok(upgraded)
        }
        Err(refused) => {
            if let Some(status) = refused.status() {
                let body = format!("{refused}\n");
                let length = body.len();
                let response = format!(
                    "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain\r\n\
                     Content-Length: {length}\r\n\r\n{body}"
                );
                stream.write_all(response.as_bytes()).await?;
            }
            Err(refused)
        }
    }
}

async fn negotiate(
    stream: &mut (impl AsyncRead + Unpin),
    verifier: Option<&Verifier>,
) -> Result<(Vec<u8>, Upgraded), Refused> {
    let mut received = Vec::with_capacity(1024);
    loop {
        if received.len() >= MAX_REQUEST_BYTES {
            return Err(Refused::TooLarge);
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Err(Refused::Gone(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
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

/// Returns the request's `Sec-WebSocket-Key`, if the request is a valid upgrade on the right path.
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

/// Returns whether the key is 16 bytes in base64, which are 22 characters and two characters of padding.
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
