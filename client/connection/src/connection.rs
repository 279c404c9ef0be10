use std::io;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use gateway_wire::packet::{HEADER_LEN, Packet};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, RETRY_AFTER};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::end::End;
use crate::ended::Ended;
use crate::open_error::OpenError;
use crate::stream::{self, Stream};
use crate::target::Target;
use crate::text;

/// The time for the name lookup, TCP and the upgrade together. A gateway allows as much for an upgrade by default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The time that leaving may take if the gateway does not answer the close frame.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The close code of a client that goes on with its session over another connection.
pub(crate) const CUT: u16 = 4000;

/// The largest message that is received, in bytes. It is four times the largest that a gateway accepts by default,
/// since deliveries of backends may be larger than requests.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// The largest payload that can be received, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = MAX_MESSAGE_BYTES - HEADER_LEN;

/// The content of one message of the gateway.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A packet.
    Packet(Packet),
    /// A text message, or a message that is shorter than a header. No gateway sends such messages.
    NoPacket(Bytes),
}

/// An open WebSocket connection to a gateway, in packets.
pub struct Connection {
    socket: WebSocketStream<Box<dyn Stream>>,
}

impl Connection {
    /// Connects and upgrades.
    ///
    /// # Errors
    /// Says why there is no connection, and the remedy.
    pub async fn open(target: &Target) -> Result<Self, OpenError> {
        let url = &target.url;
        match timeout(CONNECT_TIMEOUT, Self::upgrade(target)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(OpenError::unreachable(anyhow!(
                "{url} did not answer within {} s; are host and port right, and no firewall between?",
                CONNECT_TIMEOUT.as_secs()
            ))),
        }
    }

    async fn upgrade(target: &Target) -> Result<Self, OpenError> {
        let request = upgrade_request(target).map_err(OpenError::unreachable)?;
        let stream = connect(target).await.map_err(OpenError::unreachable)?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(error) => Err(not_upgraded(target, error)),
        }
    }

    /// Sends one packet. Cancel-safe: a packet whose sending is cancelled goes out whole with a later one, or not at
    /// all.
    ///
    /// # Errors
    /// Says why the connection is over.
    pub async fn send(&mut self, packet: &Packet) -> Result<(), Ended> {
        match self.socket.send(Message::Binary(packet.encode())).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.why_ended(error).await),
        }
    }

    /// Waits for the next packet, and answers pings meanwhile. Cancel-safe: no packet is lost.
    ///
    /// # Errors
    /// Says why the connection is over.
    pub async fn receive(&mut self) -> Result<Received, Ended> {
        loop {
            if let Some(received) = self.hear().await? {
                return Ok(received);
            }
        }
    }

    /// Waits for the next sign of life: a packet, or `None` for a ping, which is answered, or a pong. Cancel-safe.
    pub(crate) async fn hear(&mut self) -> Result<Option<Received>, Ended> {
        let message = match self.socket.next().await {
            Some(message) => message.map_err(|error| Ended::Lost(error.to_string()))?,
            None => return Err(Ended::Lost("it is closed already".into())),
        };
        match message {
            Message::Binary(message) => {
                Ok(Some(Packet::parse(message.clone()).map_or(Received::NoPacket(message), Received::Packet)))
            }
            Message::Text(text) => Ok(Some(Received::NoPacket(text.into()))),
            Message::Close(frame) => Err(closed(frame)),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(None),
        }
    }

    /// Hands one packet over to the connection, which sends it with the next [`Self::flush`]. If the future is dropped
    /// before it completes, the packet is not sent.
    ///
    /// # Errors
    /// Says why nothing can be sent any more. There may still be packets to receive, and a close frame.
    pub(crate) async fn feed(&mut self, packet: &Packet) -> Result<(), Ended> {
        self.socket.feed(Message::Binary(packet.encode())).await.map_err(|error| Ended::Lost(error.to_string()))
    }

    /// Sends what was handed over. Cancel-safe.
    ///
    /// # Errors
    /// As with [`Self::feed`].
    pub(crate) async fn flush(&mut self) -> Result<(), Ended> {
        self.socket.flush().await.map_err(|error| Ended::Lost(error.to_string()))
    }

    /// Hands a ping over to the connection, as [`Self::feed`] does with a packet.
    ///
    /// # Errors
    /// As with [`Self::feed`].
    pub(crate) async fn feed_ping(&mut self) -> Result<(), Ended> {
        self.socket.feed(Message::Ping(Bytes::new())).await.map_err(|error| Ended::Lost(error.to_string()))
    }

    /// Sends a close frame with a code that does not end the session. What the gateway has sent before its answer can
    /// still be received.
    pub(crate) async fn cut(&mut self) {
        let frame = CloseFrame { code: CloseCode::from(CUT), reason: Utf8Bytes::default() };
        // If the frame cannot be sent, the connection is over, and the next read says why.
        let _ = timeout(CLOSE_TIMEOUT, self.socket.send(Message::Close(Some(frame)))).await;
    }

    /// Ends the connection with code 1000, or answers the gateway's close frame, and waits for the end of the stream.
    pub async fn close(mut self) {
        let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        let farewell = async {
            // The library refuses this if the gateway has closed first. Its answer then goes out with the next read.
            let _ = self.socket.close(Some(normal)).await;
            while let Some(Ok(_)) = self.socket.next().await {}
        };
        // The connection is dropped now, whether the gateway answered in time or not.
        let _ = timeout(CLOSE_TIMEOUT, farewell).await;
    }

    /// Returns the reason why a packet could not be sent. Often that is a close frame of the gateway, which waits to be
    /// read.
    async fn why_ended(&mut self, error: Error) -> Ended {
        let close_frame = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Close(frame))) => return Some(closed(frame)),
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

async fn connect(target: &Target) -> anyhow::Result<Box<dyn Stream>> {
    let tcp = TcpStream::connect(target.url.address()).await.map_err(|error| unreachable(target, &error))?;
    // Packets are small and each is awaited by somebody: Nagle's algorithm would only delay them.
    tcp.set_nodelay(true)?;
    stream::open(target, tcp).await
}

fn unreachable(target: &Target, error: &io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::ConnectionRefused => "is the gateway running? `make run` starts one",
        _ => "are host and port right?",
    };
    anyhow!("cannot connect to {}: {error}; {hint}", target.url)
}

fn not_upgraded(target: &Target, error: Error) -> OpenError {
    let url = &target.url;
    match error {
        Error::Http(response) => refused(target, &response),
        // The server may have been a gateway that was just ending.
        Error::Io(_) | Error::Protocol(ProtocolError::HandshakeIncomplete) => OpenError::unreachable(anyhow!(
            "{url} ended the connection during the upgrade: {error}; is this a gateway?"
        )),
        error => OpenError::no_gateway(anyhow!(
            "what answers at {url} does not speak WebSocket: {error}; is this a gateway?"
        )),
    }
}

fn refused(target: &Target, response: &Response) -> OpenError {
    let (url, status) = (&target.url, response.status());
    let error = match (status, &target.token) {
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
            let body = text::clean(String::from_utf8_lossy(body).trim());
            let colon = if body.is_empty() { "" } else { ": " };
            anyhow!("{url} refused the upgrade (HTTP {}){colon}{body}", status.as_u16())
        }
    };
    let end = End::Refused { status: status.as_u16(), retry_after: retry_after(response) };
    OpenError { end, error }
}

/// The seconds of the header `Retry-After`, or zero. A date counts as zero, since this client's clock may be wrong.
fn retry_after(response: &Response) -> Duration {
    let header = response.headers().get(RETRY_AFTER).and_then(|header| header.to_str().ok());
    Duration::from_secs(header.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0))
}

fn closed(frame: Option<CloseFrame>) -> Ended {
    Ended::Closed(frame.map(|frame| (frame.code.into(), frame.reason.as_str().to_owned())))
}

#[cfg(test)]
mod tests;
