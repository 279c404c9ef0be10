//! A client that sends and receives packets.

use crate::{PATIENCE, in_time};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use gateway_proto::{Control, Welcome, control::Event};
use gateway_wire::packet::{self, Header, ROUTE_CONTROL};
use prost::Message as _;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, protocol::CloseFrame},
};

/// Returns the bytes of a client's packet header.
#[must_use]
pub fn header(seq: u32, route: u8) -> Vec<u8> {
    Header::request(seq, route).encode().to_vec()
}

/// A packet as a client receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The seq of the request if the packet is a reply, or the delivery number if the packet is a push.
    pub seq: u32,
    /// The route.
    pub route: u8,
    /// The flags. Bit 0 marks a reply.
    pub flags: u8,
    /// The status: 0 for success, otherwise the reason for the refusal.
    pub status: u16,
    /// The bytes after the header.
    pub payload: Bytes,
}

impl Packet {
    fn parse(message: &Bytes) -> Self {
        let (Header { seq, route, flags, status }, payload) = packet::parse(message.clone()).unwrap();
        Self { seq, route, flags, status, payload }
    }

    /// Returns for how long the gateway says that messages may have been lost, if this is such a push.
    #[must_use]
    pub fn gap(&self) -> Option<i64> {
        let is_control = (self.route, self.seq, self.flags, self.status) == (ROUTE_CONTROL, 0, 0, 0);
        match Control::decode(self.payload.clone()).ok().filter(|_| is_control)?.event? {
            Event::Gap(gap) => Some(gap.blind_ms),
            Event::TokenExpires(_) | Event::Reconnect(_) => None,
        }
    }

    /// Returns the payload as text.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }
}

/// A connected client that has received its welcome. Its stream is a TCP connection, or one with TLS.
pub struct Client<S = TcpStream> {
    /// The WebSocket, for messages that are not packets.
    pub socket: WebSocketStream<S>,
    /// The welcome of the gateway.
    pub welcome: Welcome,
    /// The number of "no backend listens" refusals that [`Self::receive`] has skipped.
    pub unheard: u32,
    /// The gaps that [`Self::receive`] has skipped, in milliseconds.
    pub gaps: Vec<i64>,
    seq: u32,
}

impl Client {
    /// Connects and receives the welcome.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::connect_to(address, "/ws").await
    }

    /// Does the same as [`Self::connect`], with this path and query.
    pub async fn connect_to(address: SocketAddr, path: &str) -> Self {
        let socket = in_time("a handshake", Self::handshake(address, path)).await.expect("a handshake");
        Self::welcomed(socket).await
    }

    /// Connects and performs the HTTP upgrade. Does not wait for the welcome.
    ///
    /// # Errors
    /// Returns the response of the gateway if it does not upgrade.
    pub async fn handshake(address: SocketAddr, path: &str) -> Result<WebSocketStream<TcpStream>, Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(client_async(format!("ws://{address}{path}"), stream).await?.0)
    }

    /// Ends the connection without a close frame.
    pub async fn cut(&mut self) {
        self.socket.get_mut().shutdown().await.unwrap();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Performs the HTTP upgrade on this stream, and receives the welcome.
    pub async fn over(stream: S) -> Self {
        let upgrade = client_async("ws://localhost/ws", stream);
        Self::welcomed(in_time("a handshake", upgrade).await.expect("a handshake").0).await
    }

    /// Receives the welcome over a WebSocket on which nothing was received yet.
    pub async fn welcomed(mut socket: WebSocketStream<S>) -> Self {
        let first = next(&mut socket).await.expect("a welcome").into_data();
        let packet = Packet::parse(&first);
        assert_eq!((packet.seq, packet.route, packet.flags, packet.status), (0, 3, 0, 0), "{packet:?}");
        let welcome = Welcome::decode(packet.payload).unwrap();
        Self { socket, welcome, unheard: 0, gaps: Vec::new(), seq: 0 }
    }

    /// Sends a packet with the client's next seq, and returns the seq.
    pub async fn send(&mut self, route: u8, payload: &[u8]) -> u32 {
        self.seq += 1;
        self.send_message([&header(self.seq, route)[..], payload].concat()).await;
        self.seq
    }

    /// Sends a binary message unchanged.
    pub async fn send_message(&mut self, message: impl Into<Bytes>) {
        in_time("the gateway to take a packet", self.socket.send(Message::Binary(message.into()))).await.unwrap();
    }

    /// Sends binary messages unchanged, in as few writes as possible.
    pub async fn send_messages(&mut self, messages: impl IntoIterator<Item = Vec<u8>>) {
        for message in messages {
            let feeding = self.socket.feed(Message::Binary(message.into()));
            in_time("the gateway to take a packet", feeding).await.unwrap();
        }
        in_time("the gateway to take a packet", self.socket.flush()).await.unwrap();
    }

    /// Returns the next binary message unchanged, with its header.
    pub async fn receive_message(&mut self) -> Bytes {
        // Pings do not extend the deadline. A gateway that sends only pings therefore fails the test.
        let deadline = time::Instant::now() + PATIENCE;
        loop {
            match time::timeout_at(deadline, next(&mut self.socket)).await.expect("no packet arrived") {
                Some(Message::Binary(message)) => return message,
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("not a packet: {other:?}"),
            }
        }
    }

    /// Returns the next packet, and fails if no packet arrives. Skips and counts "no backend listens" refusals, since
    /// most tests have no backend. Skips and records pushes about gaps of the bus, too.
    pub async fn receive(&mut self) -> Packet {
        loop {
            let packet = self.receive_any().await;
            if let Some(blind_ms) = packet.gap() {
                self.gaps.push(blind_ms);
                continue;
            }
            if packet.status != 5 || !packet.payload.starts_with(b"no backend listens on ") {
                return packet;
            }
            self.unheard += 1;
        }
    }

    /// Returns the next packet without skipping refusals, and fails if no packet arrives.
    pub async fn receive_any(&mut self) -> Packet {
        Packet::parse(&self.receive_message().await)
    }

    /// Sends a packet and returns its reply. Fails if another packet arrives before the reply.
    pub async fn request(&mut self, route: u8, payload: &[u8]) -> Packet {
        let seq = self.send(route, payload).await;
        let reply = self.receive().await;
        assert_eq!((reply.seq, reply.route, reply.flags), (seq, route, 1), "{reply:?}");
        reply
    }

    /// Sends a packet and returns its reply, or the close frame of the gateway. Fails if another packet arrives first.
    ///
    /// # Errors
    /// Returns the close frame if the gateway ends the session instead.
    pub async fn try_request(&mut self, route: u8, payload: &[u8]) -> Result<Packet, Option<CloseFrame>> {
        let seq = self.send(route, payload).await;
        let reply = self.try_receive().await?;
        assert_eq!((reply.seq, reply.route, reply.flags), (seq, route, 1), "{reply:?}");
        Ok(reply)
    }

    /// Returns the next packet, or the close frame of the gateway.
    ///
    /// # Errors
    /// Returns the close frame if the gateway ends the session.
    pub async fn try_receive(&mut self) -> Result<Packet, Option<CloseFrame>> {
        // Pings do not extend the deadline.
        let deadline = time::Instant::now() + PATIENCE;
        loop {
            match time::timeout_at(deadline, next(&mut self.socket)).await.expect("neither a packet nor a close frame")
            {
                Some(Message::Binary(message)) => return Ok(Packet::parse(&message)),
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                Some(Message::Close(frame)) => return Err(frame),
                other => panic!("neither a packet nor a close frame: {other:?}"),
            }
        }
    }

    /// Sends requests until a reply has this status and text. Returns the status and text of all replies, without
    /// consecutive duplicates.
    pub async fn answers_until(&mut self, route: u8, status: u16, text: &str) -> Vec<(u16, String)> {
        let deadline = time::Instant::now() + PATIENCE;
        let mut answers = Vec::new();
        loop {
            let reply = self.request(route, b"again").await;
            answers.push((reply.status, reply.text().to_owned()));
            answers.dedup();
            if (reply.status, reply.text()) == (status, text) {
                return answers;
            }
            assert!(
                time::Instant::now() < deadline,
                "no reply with status {status} and text {text:?} arrived in time: {answers:?}"
            );
            time::sleep(time::Duration::from_millis(5)).await;
        }
    }

    /// Sends a heartbeat and asserts that the next packet is the reply. So the session is served, and no other packet
    /// was in flight.
    pub async fn assert_alive(&mut self) {
        let reply = self.request(3, b"alive?").await;
        assert_eq!((reply.status, &reply.payload[..]), (0, &b"alive?"[..]));
    }

    /// Sends a heartbeat and waits for the reply. Other packets may arrive before the reply.
    pub async fn assert_last_alive(&mut self) {
        let seq = self.send(3, b"alive?").await;
        let answered = async { while self.receive().await.seq != seq {} };
        in_time("the reply to a heartbeat", answered).await;
    }

    /// Waits for the gateway's close frame, and skips packets before it.
    pub async fn closed(&mut self) -> Option<CloseFrame> {
        let closing = async {
            loop {
                match next(&mut self.socket).await {
                    Some(Message::Close(frame)) => return frame,
                    Some(_) => {}
                    None => panic!("the connection ended without a close frame"),
                }
            }
        };
        in_time("a close frame", closing).await
    }
}

async fn next(socket: &mut WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>) -> Option<Message> {
    let message = time::timeout(PATIENCE, socket.next()).await.expect("no message arrived");
    message.map(|message| message.expect("a valid frame"))
}
