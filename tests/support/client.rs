//! A client that speaks packets.

use crate::{PATIENCE, in_time};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use gateway_proto::Welcome;
use prost::Message as _;
use std::net::SocketAddr;
use tokio::{net::TcpStream, time};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, protocol::CloseFrame},
};

/// The bytes of a client's header.
#[must_use]
pub fn header(seq: u32, route: u8) -> Vec<u8> {
    [&seq.to_be_bytes()[..], &[route, 0, 0, 0]].concat()
}

/// A packet as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The request's, or the delivery counter.
    pub seq: u32,
    /// What it is for.
    pub route: u8,
    /// Bit 0: a reply.
    pub flags: u8,
    /// 0, or why not.
    pub status: u16,
    /// What follows the header.
    pub payload: Bytes,
}

impl Packet {
    fn parse(message: &Bytes) -> Self {
        assert!(message.len() >= 8, "the gateway sent a packet of {} bytes", message.len());
        Self {
            seq: u32::from_be_bytes(message[..4].try_into().unwrap()),
            route: message[4],
            flags: message[5],
            status: u16::from_be_bytes(message[6..8].try_into().unwrap()),
            payload: message.slice(8..),
        }
    }

    /// The payload as text.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }
}

/// A connected client that has seen its welcome.
pub struct Client {
    /// The connection, for what is not a packet.
    pub socket: WebSocketStream<TcpStream>,
    /// What the gateway said first.
    pub welcome: Welcome,
    /// How often [`Self::receive`] has passed over the answer that no backend listens.
    pub unheard: u32,
    seq: u32,
}

impl Client {
    /// Connects and takes the welcome.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut socket = in_time("a handshake", Self::handshake(address, "/ws")).await.expect("a handshake");
        let first = next(&mut socket).await.expect("a welcome").into_data();
        let packet = Packet::parse(&first);
        assert_eq!((packet.seq, packet.route, packet.flags, packet.status), (0, 3, 0, 0), "{packet:?}");
        let welcome = Welcome::decode(packet.payload).unwrap();
        Self { socket, welcome, unheard: 0, seq: 0 }
    }

    /// The HTTP upgrade alone.
    ///
    /// # Errors
    /// What the gateway answered instead.
    pub async fn handshake(address: SocketAddr, path: &str) -> Result<WebSocketStream<TcpStream>, Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(client_async(format!("ws://{address}{path}"), stream).await?.0)
    }

    /// Sends a packet with the client's next seq, and answers with that.
    pub async fn send(&mut self, route: u8, payload: &[u8]) -> u32 {
        self.seq += 1;
        self.send_message([&header(self.seq, route)[..], payload].concat()).await;
        self.seq
    }

    /// Sends a binary message as it is.
    pub async fn send_message(&mut self, message: impl Into<Bytes>) {
        in_time("the gateway takes a packet", self.socket.send(Message::Binary(message.into()))).await.unwrap();
    }

    /// Sends binary messages as they are, with one write as far as they fit.
    pub async fn send_messages(&mut self, messages: impl IntoIterator<Item = Vec<u8>>) {
        for message in messages {
            let feeding = self.socket.feed(Message::Binary(message.into()));
            in_time("the gateway takes a packet", feeding).await.unwrap();
        }
        in_time("the gateway takes a packet", self.socket.flush()).await.unwrap();
    }

    /// The next binary message as it came, header and all.
    pub async fn receive_message(&mut self) -> Bytes {
        // Pings do not count: a gateway that says nothing else is waited for no longer than one that is silent.
        let deadline = time::Instant::now() + PATIENCE;
        loop {
            match time::timeout_at(deadline, next(&mut self.socket)).await.expect("no packet came") {
                Some(Message::Binary(message)) => return message,
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("not a packet: {other:?}"),
            }
        }
    }

    /// The next packet, which has to come. The answer that no backend listens is counted and passed over, since most tests have no backend.
    pub async fn receive(&mut self) -> Packet {
        loop {
            let packet = self.receive_any().await;
            if packet.status != 5 || !packet.payload.starts_with(b"no backend listens on ") {
                return packet;
            }
            self.unheard += 1;
        }
    }

    /// The next packet, which has to come, whatever it is.
    pub async fn receive_any(&mut self) -> Packet {
        Packet::parse(&self.receive_message().await)
    }

    /// Sends a packet and takes the next one, which has to be its reply.
    pub async fn request(&mut self, route: u8, payload: &[u8]) -> Packet {
        let seq = self.send(route, payload).await;
        let reply = self.receive().await;
        assert_eq!((reply.seq, reply.route, reply.flags), (seq, route, 1), "{reply:?}");
        reply
    }

    /// Sends a packet and takes the next one, which has to be its reply, or the close frame.
    ///
    /// # Errors
    /// The close frame, if the gateway ends the session instead.
    pub async fn try_request(&mut self, route: u8, payload: &[u8]) -> Result<Packet, Option<CloseFrame>> {
        let seq = self.send(route, payload).await;
        // Pings do not count.
        let deadline = time::Instant::now() + PATIENCE;
        loop {
            match time::timeout_at(deadline, next(&mut self.socket)).await.expect("neither a packet nor a close frame")
            {
                Some(Message::Binary(message)) => {
                    let reply = Packet::parse(&message);
                    assert_eq!((reply.seq, reply.route, reply.flags), (seq, route, 1), "{reply:?}");
                    return Ok(reply);
                }
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                Some(Message::Close(frame)) => return Err(frame),
                other => panic!("neither a packet nor a close frame: {other:?}"),
            }
        }
    }

    /// Asks again and again until the answer is this status and text. Answers with every answer on the way there, those that
    /// repeat the one before left out.
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
            assert!(time::Instant::now() < deadline, "waited in vain for {text:?}: {answers:?}");
            time::sleep(time::Duration::from_millis(5)).await;
        }
    }

    /// Shows that the session lives and serves, and that nothing else was on its way: a heartbeat comes back next.
    pub async fn assert_alive(&mut self) {
        let reply = self.request(3, b"alive?").await;
        assert_eq!((reply.status, &reply.payload[..]), (0, &b"alive?"[..]));
    }

    /// Shows that the session lives and serves: a heartbeat comes back, after whatever was on its way.
    pub async fn assert_last_alive(&mut self) {
        let seq = self.send(3, b"alive?").await;
        let answered = async { while self.receive().await.seq != seq {} };
        in_time("the reply to a heartbeat", answered).await;
    }

    /// Waits for the gateway's close frame; packets on the way are passed over.
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

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Option<Message> {
    let message = time::timeout(PATIENCE, socket.next()).await.expect("nothing came");
    message.map(|message| message.expect("a good frame"))
}
