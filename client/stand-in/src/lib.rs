//! A stand-in for a gateway, for the unit tests of clients. It accepts one connection, or several one after the other, and
//! plays a script on each.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use gateway_proto::Welcome;
use gateway_wire::packet::{Packet, ROUTE_SYSTEM};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

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
    listen(async move |tcp| script(Peer::accept(tcp).await).await).await
}

/// Answers the first HTTP request with `response`. Returns the URL and the task, which returns the head of the request.
///
/// # Panics
/// Panics if the port or the connection fails.
pub async fn http_server(response: &'static str) -> (String, JoinHandle<String>) {
    listen(async move |tcp| answer(tcp, response).await).await
}

async fn answer(mut tcp: TcpStream, response: &str) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.expect("a request"));
    }
    tcp.write_all(response.as_bytes()).await.expect("an open connection");
    String::from_utf8(head).expect("text")
}

/// The time that the scripts may take after the client has ended. It is long enough for a busy machine.
const MAX_SCRIPT_TIME: Duration = Duration::from_secs(60);

type Script = Box<dyn FnOnce(TcpStream) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// A stand-in that plays a script on each connection, one after the other. The next connection is accepted when the
/// script of the last one has ended.
pub struct Scripts {
    url: String,
    scripts: mpsc::UnboundedSender<Script>,
    task: JoinHandle<()>,
}

/// Listens for connections, which get their scripts later.
///
/// # Panics
/// Panics if there is no port.
pub async fn scripts() -> Scripts {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("ws://{}/ws", listener.local_addr().expect("an address"));
    let (scripts, mut next) = mpsc::unbounded_channel::<Script>();
    let task = tokio::spawn(async move {
        while let Some(script) = next.recv().await {
            let (tcp, _) = listener.accept().await.expect("a connection");
            script(tcp).await;
        }
    });
    Scripts { url, scripts, task }
}

impl Scripts {
    /// The URL of the stand-in.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Upgrades the next connection and plays `script` on it.
    pub fn connection<S>(&mut self, script: impl FnOnce(Peer) -> S + Send + 'static)
    where
        S: Future<Output = ()> + Send + 'static,
    {
        self.add(Box::new(|tcp| Box::pin(async move { script(Peer::accept(tcp).await).await })));
    }

    /// Answers the request of the next connection with `response`.
    pub fn response(&mut self, response: &'static str) {
        self.add(Box::new(move |tcp| {
            Box::pin(async move {
                answer(tcp, response).await;
            })
        }));
    }

    fn add(&mut self, script: Script) {
        // If a script has panicked, `end` says so.
        let _ = self.scripts.send(script);
    }

    /// Waits until all scripts have been played.
    ///
    /// # Panics
    /// Panics if a script has panicked, or if the client has not come or not done its part within a minute.
    pub async fn end(self) {
        drop(self.scripts);
        let ended = timeout(MAX_SCRIPT_TIME, self.task).await;
        ended.expect("all scripts are played").expect("no script panics");
    }
}

/// The gateway's end of a connection. Its methods panic if the connection fails.
pub struct Peer {
    socket: WebSocketStream<TcpStream>,
    path: String,
    /// The number of pings that the client has answered so far.
    pub pongs: usize,
}

impl Peer {
    async fn accept(tcp: TcpStream) -> Self {
        let mut path = String::new();
        #[expect(clippy::result_large_err, reason = "the library prescribes the type")]
        let note_path = |request: &Request, response: Response| {
            path = request.uri().to_string();
            Ok(response)
        };
        let socket = accept_hdr_async(tcp, note_path).await.expect("an upgrade");
        Self { socket, path, pongs: 0 }
    }

    /// The path of the upgrade request, with its query.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

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

    /// Sends nothing but the answers to pings for this time.
    pub async fn quiet(&mut self, time: Duration) {
        if let Ok(message) = timeout(time, self.message()).await {
            panic!("the client is not quiet: {message:?}");
        }
    }

    /// Waits until the client has cut the connection without a close frame.
    pub async fn cut(mut self) {
        loop {
            match self.message().await {
                None | Some(Err(_)) => return,
                Some(Ok(message)) => assert!(!message.is_close(), "the client sent a close frame"),
            }
        }
    }

    /// Waits for the next message that is not a pong.
    async fn message(&mut self) -> Option<Result<Message, Error>> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Pong(_))) => self.pongs += 1,
                // The library answers with the next read.
                Some(Ok(Message::Ping(_))) => {}
                other => return other,
            }
        }
    }
}
