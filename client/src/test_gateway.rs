//! A stand-in for a gateway, for tests: it accepts one connection and plays a script.

use std::future::Future;

use futures_util::{SinkExt, StreamExt};
use gateway_proto::Welcome;
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async};

use crate::connection::Target;
use crate::packet::{Packet, ROUTE_SYSTEM};

/// Serves the first connection with `serve`. The test awaits the task, so that its panics surface.
async fn listen<T, S>(serve: impl FnOnce(TcpStream) -> S + Send + 'static) -> (Target, JoinHandle<T>)
where
    T: Send + 'static,
    S: Future<Output = T> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        serve(tcp).await
    });
    (Target { url: url.parse().unwrap(), token: None }, task)
}

/// Plays `script` on the first connection, once that is upgraded.
pub(crate) async fn gateway<T, S>(script: impl FnOnce(Peer) -> S + Send + 'static) -> (Target, JoinHandle<T>)
where
    T: Send + 'static,
    S: Future<Output = T> + Send + 'static,
{
    listen(async move |tcp| script(Peer { socket: accept_async(tcp).await.unwrap(), pongs: 0 }).await).await
}

/// Answers the first request with `response`, whatever it asks for, and returns its head.
pub(crate) async fn http_server(response: &'static str) -> (Target, JoinHandle<String>) {
    listen(async move |mut tcp: TcpStream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.unwrap());
        }
        tcp.write_all(response.as_bytes()).await.unwrap();
        String::from_utf8(head).unwrap()
    })
    .await
}

/// The gateway's end of a connection.
pub(crate) struct Peer {
    socket: WebSocketStream<TcpStream>,
    /// How many pings the client has answered so far.
    pub(crate) pongs: usize,
}

impl Peer {
    pub(crate) async fn welcome(&mut self, session_id: &str) {
        let welcome = Welcome { session_id: session_id.into(), server_time_ms: 5 };
        self.send(&Packet::push(0, ROUTE_SYSTEM, welcome.encode_to_vec())).await;
    }

    pub(crate) async fn send(&mut self, packet: &Packet) {
        self.send_message(Message::Binary(packet.encode())).await;
    }

    pub(crate) async fn send_message(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    /// The next packet of the client.
    pub(crate) async fn request(&mut self) -> Packet {
        match self.message().await {
            Some(Ok(Message::Binary(message))) => Packet::decode(&message).unwrap(),
            other => panic!("not a packet: {other:?}"),
        }
    }

    /// Echoes the next heartbeat as a gateway does.
    pub(crate) async fn echo(&mut self) {
        let request = self.request().await;
        self.send(&request.reply(0, request.payload.clone())).await;
    }

    /// Echoes heartbeats until the client leaves, and says how many.
    pub(crate) async fn echo_all(&mut self) -> usize {
        let mut echoed = 0;
        while let Some(Ok(Message::Binary(message))) = self.message().await {
            let request = Packet::decode(&message).unwrap();
            self.send(&request.reply(0, request.payload.clone())).await;
            echoed += 1;
        }
        echoed
    }

    /// Closes first, and waits until the client has answered.
    pub(crate) async fn close(mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        self.socket.close(Some(frame)).await.unwrap();
        let mut answered = false;
        while let Some(Ok(message)) = self.socket.next().await {
            answered |= message.is_close();
        }
        assert!(answered, "the client left without a close frame");
    }

    /// The client's close code; nothing else may come before.
    pub(crate) async fn closed(&mut self) -> Option<u16> {
        let code = match self.message().await {
            Some(Ok(Message::Close(frame))) => frame.map(|frame| frame.code.into()),
            other => panic!("not a close frame: {other:?}"),
        };
        // The answer goes out with the read that finds the end.
        assert!(self.socket.next().await.is_none());
        code
    }

    /// The next message that is no pong.
    async fn message(&mut self) -> Option<Result<Message, Error>> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Pong(_))) => self.pongs += 1,
                other => return other,
            }
        }
    }
}
