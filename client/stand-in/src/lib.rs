//! A stand-in for a gateway, for the unit tests of clients. It accepts one connection and plays a script.

use std::future::Future;

use futures_util::{SinkExt, StreamExt};
use gateway_proto::Welcome;
use gateway_wire::packet::{Packet, ROUTE_SYSTEM};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async};

/// Serves the first connection with `serve`. Returns the URL and the task, which the test awaits so that panics
/// surface.
async fn listen<T, S>(serve: impl FnOnce(TcpStream) -> S + Send + 'static) -> (String, JoinHandle<T>)
where
    T: Send + 'static,
    S: Future<Output = T> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("ws://{}/ws", listener.local_addr().expect("an address"));
    let task = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("a connection");
        serve(tcp).await
    });
    (url, task)
}

/// Upgrades the first connection and plays `script` on it. Returns the URL and the task, which the test awaits so that
/// panics surface.
///
/// # Panics
/// Panics if the port or the upgrade fails.
pub async fn gateway<T, S>(script: impl FnOnce(Peer) -> S + Send + 'static) -> (String, JoinHandle<T>)
where
    T: Send + 'static,
    S: Future<Output = T> + Send + 'static,
{
    listen(async move |tcp| script(Peer { socket: accept_async(tcp).await.expect("an upgrade"), pongs: 0 }).await).await
}

/// Answers the first HTTP request with `response`. Returns the URL and the task, which returns the head of the request.
///
/// # Panics
/// Panics if the port or the connection fails.
pub async fn http_server(response: &'static str) -> (String, JoinHandle<String>) {
    listen(async move |mut tcp: TcpStream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.expect("a request"));
        }
        tcp.write_all(response.as_bytes()).await.expect("an open connection");
        String::from_utf8(head).expect("text")
    })
    .await
}

/// The gateway's end of a connection. Its methods panic if the connection fails.
pub struct Peer {
    socket: WebSocketStream<TcpStream>,
    /// The number of pings that the client has answered so far.
    pub pongs: usize,
}

impl Peer {
    /// Sends the welcome.
    pub async fn welcome(&mut self, session_id: &str) {
        self.welcome_with(Welcome { session_id: session_id.into(), server_time_ms: 5, ..Welcome::default() }).await;
    }

    /// Sends this welcome.
    pub async fn welcome_with(&mut self, welcome: Welcome) {
        self.send(&Packet::push(ROUTE_SYSTEM, 0, welcome.encode_to_vec())).await;
    }

    /// Sends a packet.
    pub async fn send(&mut self, packet: &Packet) {
        self.send_message(Message::Binary(packet.encode())).await;
    }

    /// Sends a message of any kind.
    pub async fn send_message(&mut self, message: Message) {
        self.socket.send(message).await.expect("an open connection");
    }

    /// Waits for the next packet of the client.
    pub async fn request(&mut self) -> Packet {
        match self.message().await {
            Some(Ok(Message::Binary(message))) => Packet::parse(message).expect("a packet"),
            other => panic!("not a packet: {other:?}"),
        }
    }

    /// Answers the next heartbeat as a gateway does.
    pub async fn echo(&mut self) {
        let request = self.request().await;
        self.send(&request.reply(0, request.payload.clone())).await;
    }

    /// Answers heartbeats until the client leaves, and returns their number.
    pub async fn echo_all(&mut self) -> usize {
        let mut echoed = 0;
        while let Some(Ok(Message::Binary(message))) = self.message().await {
            let request = Packet::parse(message).expect("a packet");
            self.send(&request.reply(0, request.payload.clone())).await;
            echoed += 1;
        }
        echoed
    }

    /// Sends a close frame, and waits until the client has answered.
    pub async fn close(mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        self.socket.close(Some(frame)).await.expect("an open connection");
        let mut answered = false;
        while let Some(Ok(message)) = self.socket.next().await {
            answered |= message.is_close();
        }
        assert!(answered, "the client left without a close frame");
    }

    /// Waits for the client's close frame, which has to come next, and returns its code.
    pub async fn closed(&mut self) -> Option<u16> {
        let code = match self.message().await {
            Some(Ok(Message::Close(frame))) => frame.map(|frame| frame.code.into()),
            other => panic!("not a close frame: {other:?}"),
        };
        // The library sends the answer with the read that finds the end.
        assert!(self.socket.next().await.is_none());
        code
    }

    /// Waits for the next message that is not a pong.
    async fn message(&mut self) -> Option<Result<Message, Error>> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Pong(_))) => self.pongs += 1,
                other => return other,
            }
        }
    }
}
