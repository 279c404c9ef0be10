//! One task per connection. It takes all messages that are ready, and writes all answers with one flush.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use chat_proto::chat::ChatRequest;
use futures_util::{FutureExt, SinkExt, StreamExt};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Sender, channel};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};
use uuid::Uuid;

use crate::bus::Publication;
use crate::registry::Registry;

const HEADER: usize = 8;
const CHAT: u8 = 1;
const SYSTEM: u8 = 3;
const REPLY: u8 = 1;

/// The number of deliveries that may wait for one session.
const QUEUE: usize = 1024;

/// The most packets that are read before the deliveries of the session.
const BATCH: usize = 64;

/// The size of each buffer in bytes, which is that of the gateway. The library's default of 128 KiB would make sessions
/// larger and no faster.
const BUFFER_BYTES: usize = 8192;

/// Serves a connection until it ends.
pub(crate) async fn run(stream: TcpStream, registry: &Registry, publisher: &Sender<Publication>) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(BUFFER_BYTES).write_buffer_size(BUFFER_BYTES);
    let socket = accept_async_with_config(stream, Some(config)).await?;
    let id = Uuid::new_v4().to_string();
    let mut session = Session { socket, id: &id, user: None, registry, publisher };
    let outcome = session.serve().await;
    registry.remove(&id, session.user);
    outcome
}

struct Session<'a> {
    socket: WebSocketStream<TcpStream>,
    id: &'a str,
    user: Option<i32>,
    registry: &'a Registry,
    publisher: &'a Sender<Publication>,
}

impl Session<'_> {
    async fn serve(&mut self) -> Result<(), Error> {
        let (sender, mut deliveries) = channel(QUEUE);
        self.registry.insert(self.id, sender);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let welcome = gateway_proto::Welcome {
            session_id: self.id.to_owned(),
            server_time_ms: now.as_millis() as i64,
            ..Default::default()
        };
        self.socket.send(packet(0, SYSTEM, 0, 0, &welcome.encode_to_vec())).await?;
        let (mut batch, mut counter) = (Vec::new(), 0);
        loop {
            tokio::select! {
                _ = deliveries.recv_many(&mut batch, QUEUE) => {
                    for payload in batch.drain(..) {
                        counter += 1;
                        self.socket.feed(packet(counter, CHAT, 0, 0, &payload)).await?;
                    }
                }
                message = self.socket.next() => {
                    self.on_message(message).await?;
                    for _ in 1..BATCH {
                        let Some(message) = self.socket.next().now_or_never() else { break };
                        self.on_message(message).await?;
                    }
                }
            }
            self.socket.flush().await?;
        }
    }

    async fn on_message(&mut self, message: Option<Result<Message, Error>>) -> Result<(), Error> {
        match message.ok_or(Error::ConnectionClosed)?? {
            Message::Binary(packet) => self.on_packet(packet).await,
            // The library answers these.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => Ok(()),
            Message::Text(_) | Message::Frame(_) => self.socket.close(None).await,
        }
    }

    async fn on_packet(&mut self, bytes: Bytes) -> Result<(), Error> {
        let Some((&[a, b, c, d, route, ..], payload)) = bytes.split_first_chunk::<HEADER>() else {
            return self.socket.feed(packet(0, 0, REPLY, 1, b"shorter than its header")).await;
        };
        let seq = u32::from_be_bytes([a, b, c, d]);
        let refused = match route {
            SYSTEM => return self.socket.feed(packet(seq, SYSTEM, REPLY, 0, payload)).await,
            CHAT => match self.admit(payload) {
                Ok(topic) => {
                    // The publisher ends only with the process.
                    let _ = self.publisher.send((topic, bytes.slice(HEADER..))).await;
                    return Ok(());
                }
                Err(refused) => refused,
            },
            _ => (3, "no such route"),
        };
        self.socket.feed(packet(seq, route, REPLY, refused.0, refused.1.as_bytes())).await
    }

    /// Binds the session to the user of a chat request. Returns the topic of the request, or its refusal.
    fn admit(&mut self, payload: &[u8]) -> Result<String, (u16, &'static str)> {
        let request = ChatRequest::decode(payload).map_err(|_| (2, "not a ChatRequest"))?;
        let base = request.base.ok_or((2, "no base"))?;
        if base.game_id.is_empty() || base.user_id <= 0 {
            return Err((2, "no game_id or no user_id"));
        }
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if base.game_id.len() > 64 || !base.game_id.bytes().all(legal) {
            return Err((4, "no such game"));
        }
        match self.user {
            Some(user) if user != base.user_id => return Err((6, "another user's id")),
            Some(_) => {}
            None => {
                self.user = Some(base.user_id);
                self.registry.bind(self.id, base.user_id);
            }
        }
        Ok(["game:request:", &base.game_id].concat())
    }
}

fn packet(seq: u32, route: u8, flags: u8, status: u16, payload: &[u8]) -> Message {
    let mut packet = BytesMut::with_capacity(HEADER + payload.len());
    packet.put_u32(seq);
    packet.put_slice(&[route, flags]);
    packet.put_u16(status);
    packet.put_slice(payload);
    Message::Binary(packet.freeze())
}
