//! One WebSocket connection to a gateway, in packets.

use std::fmt;
use std::io;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header::AUTHORIZATION};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::endpoint::Endpoint;
use crate::packet::{HEADER_BYTES, Packet};
use crate::show;

/// Name lookup, TCP and the upgrade together. As long as a gateway grants an upgrade by default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long leaving may take: a gateway that does not answer the close frame shall not keep anybody.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Four times what a gateway takes by default, since deliveries of backends may be larger than requests.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// The largest payload that a gateway could possibly send back.
pub(crate) const MAX_PAYLOAD_BYTES: usize = MAX_MESSAGE_BYTES - HEADER_BYTES;

/// Which gateway, and as whom.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Target {
    /// The gateway's WebSocket URL
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:8080/ws")]
    pub(crate) url: Endpoint,
    /// Goes into `Authorization: Bearer TOKEN`
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
}

/// What one message of the gateway held.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Packet(Packet),
    /// A text message, or one shorter than a header. No gateway sends such a thing.
    NoPacket(Bytes),
}

/// Why a connection is over though the client did not end it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The gateway sent a close frame; code and reason, if there were any.
    Closed(Option<(u16, String)>),
    /// The connection broke; what the transport says of it.
    Lost(String),
}

/// An open connection.
pub(crate) struct Connection {
    socket: WebSocketStream<TcpStream>,
}

impl Connection {
    /// Connects and upgrades. An error says what would mend it.
    pub(crate) async fn open(target: &Target) -> anyhow::Result<Self> {
        let url = &target.url;
        match timeout(CONNECT_TIMEOUT, Self::upgrade(target)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow!(
                "{url} did not answer within {} s; are host and port right, and no firewall between?",
                CONNECT_TIMEOUT.as_secs()
            )),
        }
    }

    async fn upgrade(target: &Target) -> anyhow::Result<Self> {
        let request = upgrade_request(target)?;
        let tcp = TcpStream::connect(target.url.address()).await.map_err(|error| unreachable(target, &error))?;
        // Packets are small and each is awaited by somebody: Nagle's algorithm would only delay them.
        tcp.set_nodelay(true)?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        match client_async_with_config(request, tcp, Some(config)).await {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(error) => Err(not_upgraded(target, error)),
        }
    }

    /// Sends one packet. It may be cancelled: the packet then goes out whole with a later one, or not at all.
    pub(crate) async fn send(&mut self, packet: &Packet) -> Result<(), Ended> {
        match self.socket.send(Message::Binary(packet.encode())).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.why_ended(error).await),
        }
    }

    /// Awaits the next packet, and answers pings meanwhile. It may be cancelled: no packet is lost by that.
    pub(crate) async fn receive(&mut self) -> Result<Received, Ended> {
        loop {
            let message = match self.socket.next().await {
                Some(message) => message.map_err(|error| Ended::Lost(error.to_string()))?,
                None => return Err(Ended::Lost("it is closed already".into())),
            };
            match message {
                Message::Binary(message) => {
                    return Ok(Packet::decode(&message).map_or(Received::NoPacket(message), Received::Packet));
                }
                Message::Text(text) => return Ok(Received::NoPacket(text.into())),
                Message::Close(frame) => return Err(Ended::closed(frame)),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Ends the connection with code 1000, or answers the gateway's close frame, and waits for the end of the stream.
    pub(crate) async fn close(mut self) {
        let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        let farewell = async {
            // Refused where the gateway has closed first; the answer to that goes out with the next read.
            let _ = self.socket.close(Some(normal)).await;
            while let Some(Ok(_)) = self.socket.next().await {}
        };
        // Whether in time or not: the connection is dropped now.
        let _ = timeout(CLOSE_TIMEOUT, farewell).await;
    }

    /// A packet that could not be sent often has its reason waiting to be read: the gateway's close frame.
    async fn why_ended(&mut self, error: Error) -> Ended {
        let close_frame = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Close(frame))) => return Some(Ended::closed(frame)),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return None,
                }
            }
        };
        match timeout(CLOSE_TIMEOUT, close_frame).await {
            Ok(Some(ended)) => ended,
            Ok(None) | Err(_) => Ended::Lost(error.to_string()),
        }
    }
}

fn upgrade_request(target: &Target) -> anyhow::Result<Request> {
    let mut request = target.url.uri().into_client_request().context("no request can be made of this URL")?;
    if let Some(token) = &target.token {
        let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))
            .context("--token: it holds a character that no HTTP header can carry")?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    Ok(request)
}

fn unreachable(target: &Target, error: &io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::ConnectionRefused => "is the gateway running? `make run` starts one",
        _ => "are host and port right?",
    };
    anyhow!("cannot connect to {}: {error}; {hint}", target.url)
}

fn not_upgraded(target: &Target, error: Error) -> anyhow::Error {
    let url = &target.url;
    match error {
        Error::Http(response) => refused(target, &response),
        Error::Io(error) => {
            anyhow!("{url} ended the connection during the upgrade: {error}; is this a gateway?")
        }
        error => {
            anyhow!("what answers at {url} does not speak WebSocket: {error}; is this a gateway?")
        }
    }
}

fn refused(target: &Target, response: &Response) -> anyhow::Error {
    let (url, status) = (&target.url, response.status());
    match (status, &target.token) {
        (StatusCode::UNAUTHORIZED, None) => {
            anyhow!("{url} asks for a token (HTTP 401); give one with --token")
        }
        (StatusCode::UNAUTHORIZED, Some(_)) => {
            anyhow!("{url} does not accept this token (HTTP 401)")
        }
        (StatusCode::NOT_FOUND, _) => {
            anyhow!("{url} has nothing at {} (HTTP 404); a gateway's path is /ws", url.path())
        }
        _ => {
            let body = response.body().as_deref().unwrap_or_default();
            let text = show::text(String::from_utf8_lossy(body).trim());
            let colon = if text.is_empty() { "" } else { ": " };
            anyhow!("{url} refused the upgrade (HTTP {}){colon}{text}", status.as_u16())
        }
    }
}

impl Ended {
    fn closed(frame: Option<CloseFrame>) -> Self {
        Self::Closed(frame.map(|frame| (frame.code.into(), frame.reason.as_str().to_owned())))
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(None) => write!(f, "the gateway closed the connection without a code"),
            Self::Closed(Some((code, reason))) => {
                write!(f, "the gateway closed the connection: {code} {}", show::close_code(*code))?;
                if reason.is_empty() { Ok(()) } else { write!(f, ": {}", show::text(reason)) }
            }
            Self::Lost(why) => write!(f, "the connection is lost: {why}"),
        }
    }
}

impl std::error::Error for Ended {}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
