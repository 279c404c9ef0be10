//! The HTTP upgrade from a TCP connection to a WebSocket (RFC 6455, 4.2). Every other request gets an HTTP error.
//!
//! The upgrade has two steps, so that plugins can decide in between. The first step reads and checks the request. The
//! second step accepts or refuses it.

use crate::{
    auth::{self, Authenticator, Denied, Identity},
    config,
    delivery::limits::OverLimit,
    net::head::{self, Head},
    net::resume_token::Wanted,
    net::{credentials, forwarded, origin, subprotocol},
};
use httparse::EMPTY_HEADER;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    str,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tungstenite::{handshake::derive_accept_key, http::StatusCode};

/// The largest request in bytes that is accepted.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// The largest number of headers that a request may have.
const MAX_HEADERS: usize = 64;
/// The first byte of a TLS handshake (RFC 8446, 5.1). No HTTP request begins with it.
pub(super) const TLS_HANDSHAKE: u8 = 0x16;
/// The only path that is served.
const PATH: &str = "/ws";

/// The maximum number of bytes that a client gets of a plugin's reason for a refusal.
const MAX_REASON_BYTES: usize = 1024;

/// A valid request for a WebSocket, which waits for its answer.
///
/// It is kept as the bytes that were received, so that a gateway copies nothing out of them if no plugin asks. It has
/// no `Debug`, because it contains the client's token.
pub struct Request {
    /// Whom the client's token names, or `None` if no token was checked.
    pub identity: Option<Identity>,
    /// The request, and the bytes that the client sent right after it.
    received: Vec<u8>,
    /// The length of the request in bytes.
    len: usize,
    /// The answer to the request's `Sec-WebSocket-Key`.
    accept: String,
    /// The subprotocol that was chosen.
    protocol: Option<String>,
}

/// Why a connection did not become a WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The connection ended or broke during the handshake.
    #[error("the connection ended during the handshake: {0}")]
    Gone(#[from] io::Error),
    /// The client's bytes are not an HTTP request.
    #[error("not an HTTP request: {0}")]
    NotHttp(httparse::Error),
    /// The client speaks TLS.
    #[error("this port does not speak TLS: use ws://, or set server.tls")]
    Tls,
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
    /// The client is over a limit.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The request comes from a web page that may not connect.
    #[error(transparent)]
    Origin(#[from] origin::Foreign),
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
            Self::NotHttp(_) | Self::Tls => "not_http",
            Self::TooLarge => "too_large",
            Self::NotFound => "not_found",
            Self::BadUpgrade(_) | Self::Version => "bad_upgrade",
            Self::OverLimit(limit) => limit.reason(),
            Self::Origin(_) => "origin",
            Self::Denied(Denied::Unavailable) => "auth_unavailable",
            Self::Denied(_) => "denied",
        }
    }

    fn status(&self) -> Option<&'static str> {
        match self {
            Self::Gone(_) => None,
            Self::NotHttp(_) | Self::Tls | Self::BadUpgrade(_) => Some("400 Bad Request"),
            Self::TooLarge => Some("431 Request Header Fields Too Large"),
            Self::NotFound => Some("404 Not Found"),
            Self::Version => Some("426 Upgrade Required\r\nSec-WebSocket-Version: 13"),
            Self::OverLimit(OverLimit::Sessions | OverLimit::NewSessions) => {
                Some("503 Service Unavailable\r\nRetry-After: 1")
            }
            Self::OverLimit(_) => Some("429 Too Many Requests\r\nRetry-After: 1"),
            Self::Origin(_) => Some("403 Forbidden"),
            Self::Denied(Denied::Unavailable) => Some("503 Service Unavailable\r\nRetry-After: 1"),
            Self::Denied(_) => Some("401 Unauthorized\r\nWWW-Authenticate: Bearer"),
        }
    }
}

/// Reads and checks the client's request and its token. Answers it only if it is refused. The caller sets a timeout.
///
/// `remote` is the address that the connection comes from. If that is a trusted proxy, the address becomes the client's
/// as soon as the request names it, even if the request is then refused. Without `may_be_forwarded`, no request names it.
///
/// # Errors
/// Returns a [`Refused`] that says why there is no WebSocket. The client has received its answer by then, unless the
/// connection broke.
pub async fn request(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    remote: &mut SocketAddr,
    may_be_forwarded: bool,
    server: &config::Server,
    auth: &Authenticator,
    admit: impl FnOnce(IpAddr) -> Result<(), OverLimit>,
) -> Result<Request, Refused> {
    let request = match read(stream, remote, may_be_forwarded, server, admit).await {
        Ok(request) if auth.is_on() => request.identified(auth).await,
        outcome => outcome,
    };
    if let Err(refused) = &request
        && let Some(status) = refused.status()
    {
        // A client that does not take its answer was refused all the same.
        let _ = answer(stream, status, &format!("{refused}\n")).await;
    }
    request
}

impl Request {
    /// Checks the client's token.
    async fn identified(self, auth: &Authenticator) -> Result<Self, Refused> {
        // The token is copied, because a parsed request would make the task of each connection larger.
        let token = self.read(|head| credentials::token(head).map(str::to_owned));
        Ok(Self { identity: auth.identify(token.as_deref()).await?, ..self })
    }

    /// Returns which session the client wants to resume, or `None` if it wants none.
    #[must_use]
    pub fn resume(&self) -> Option<Wanted> {
        self.read(Wanted::of)
    }

    /// Returns the query of the request's path, without the client's secrets. It is empty if there is none.
    #[must_use]
    pub fn query(&self) -> String {
        let is_secret = |pair: &&str| matches!(pair.split('=').next(), Some("token" | "resume"));
        self.read(|head| head::parameters(head).filter(|pair| !is_secret(pair)).collect::<Vec<_>>().join("&"))
    }

    /// Returns every header with one of the names, in the order of the request. The names are in lower case. Headers
    /// with values that are not UTF-8 are left out, and so are tokens among the subprotocols.
    #[must_use]
    pub fn headers(&self, names: &[String]) -> Vec<(String, String)> {
        let is_listed =
            |header: &&httparse::Header<'_>| names.iter().any(|name| header.name.eq_ignore_ascii_case(name));
        let owned = |header: &httparse::Header<'_>| {
            let (name, value) = (header.name.to_ascii_lowercase(), str::from_utf8(header.value).ok()?);
            let value = if name == subprotocol::HEADER { subprotocol::without_tokens(value) } else { value.to_owned() };
            Some((name, value))
        };
        self.read(|head| head.headers.iter().filter(is_listed).filter_map(owned).collect())
    }

    /// Returns the claims of the client's token, a JSON object, or `None` if no token was checked.
    #[must_use]
    pub fn claims(&self) -> Option<String> {
        self.identity?;
        self.read(|head| auth::claims(credentials::token(head)?))
    }

    /// Accepts the request. Returns the bytes that the client sent right after it.
    ///
    /// # Errors
    /// Returns an error if the connection broke.
    pub async fn accept(self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<Vec<u8>> {
        let (answer, early) = self.accepted();
        stream.write_all(&answer).await?;
        Ok(early)
    }

    /// Returns the answer that accepts the request, and the bytes that the client sent right after it.
    #[must_use]
    pub fn accepted(mut self) -> (Vec<u8>, Vec<u8>) {
        let protocol = self.protocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {}\r\n{protocol}\r\n",
            self.accept
        );
        (response.into_bytes(), self.received.split_off(self.len))
    }

    /// Refuses the request with an HTTP status from 400 to 599 and a reason, of which the client gets the first 1024
    /// bytes. A client that is refused with 429 or 503 may try again after a second.
    ///
    /// # Errors
    /// Returns an error if the connection broke.
    pub async fn refuse(self, stream: &mut (impl AsyncWrite + Unpin), status: u16, reason: &str) -> io::Result<()> {
        let phrase = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
        let retry = if matches!(status, 429 | 503) { "\r\nRetry-After: 1" } else { "" };
        let reason = &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)];
        answer(stream, &format!("{status} {phrase}{retry}"), reason).await
    }

    /// Reads from the request once more. It was valid before, so it is valid again.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Head<'_, '_>) -> T) -> T {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut head = Head::new(&mut headers);
        let _ = head.parse(&self.received);
        read(&head)
    }
}

async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    remote: &mut SocketAddr,
    may_be_forwarded: bool,
    server: &config::Server,
    admit: impl FnOnce(IpAddr) -> Result<(), OverLimit>,
) -> Result<Request, Refused> {
    let mut received = Vec::with_capacity(1024);
    let refused = loop {
        if received.len() >= MAX_REQUEST_BYTES {
            break Refused::TooLarge;
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Err(Refused::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut head = Head::new(&mut headers);
        match head.parse(&received) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(len)) => {
                if may_be_forwarded {
                    *remote = forwarded::client(&head, *remote, &server.proxies);
                }
                // The limit comes first, because checking a token is dear.
                admit(remote.ip())?;
                let accept = derive_accept_key(check(&head)?.as_bytes());
                server.allowed_origins.as_ref().map(|allowed| origin::check(&head, allowed)).transpose()?;
                let protocol = subprotocol::choose(&head, &server.subprotocols).map(str::to_owned);
                return Ok(Request { identity: None, received, len, accept, protocol });
            }
            Err(httparse::Error::TooManyHeaders) => break Refused::TooLarge,
            Err(_) if received.first() == Some(&TLS_HANDSHAKE) => break Refused::Tls,
            Err(error) => break Refused::NotHttp(error),
        }
    };
    // What a proxy passes on may come from any client.
    if !(may_be_forwarded && server.proxies.trust(remote.ip())) {
        admit(remote.ip())?;
    }
    Err(refused)
}

/// Answers a refused request. `status` may contain headers, each after the end of a line.
pub(super) async fn answer(stream: &mut (impl AsyncWrite + Unpin), status: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let response = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(response.as_bytes()).await
}

/// Returns the request's `Sec-WebSocket-Key`, if the request is a valid upgrade on the right path.
fn check<'a>(request: &Head<'_, 'a>) -> Result<&'a str, Refused> {
    if head::target(request).split('?').next() != Some(PATH) {
        return Err(Refused::NotFound);
    }
    if request.method != Some("GET") || request.version != Some(1) {
        return Err(Refused::BadUpgrade("a WebSocket begins with GET and HTTP/1.1"));
    }
    let lists =
        |name: &str, wanted: &str| head::elements(request, name).any(|element| element.eq_ignore_ascii_case(wanted));
    if !lists("connection", "upgrade") || !lists("upgrade", "websocket") {
        return Err(Refused::BadUpgrade("a WebSocket begins with `Connection: Upgrade` and `Upgrade: websocket`"));
    }
    if head::only_value(request, "host").is_none() {
        return Err(Refused::BadUpgrade("a request has one `Host`"));
    }
    if head::only_value(request, "sec-websocket-version") != Some("13") {
        return Err(Refused::Version);
    }
    match head::only_value(request, "sec-websocket-key") {
        Some(key) if is_key(key) => Ok(key),
        _ => Err(Refused::BadUpgrade("one `Sec-WebSocket-Key` has to be 16 bytes in base64")),
    }
}

/// Returns whether the key is 16 bytes in base64, which are 22 characters and two characters of padding.
fn is_key(key: &str) -> bool {
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.ends_with("==") && key.bytes().take(22).all(base64)
}

#[cfg(test)]
mod tests;
