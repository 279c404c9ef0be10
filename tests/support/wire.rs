//! A connection on which a test chooses every byte. Tests use it to send bytes that a well-behaved client never sends.

use crate::PATIENCE;
use bytes::Bytes;
use gateway_wire::websocket::{self, FINAL, Head, Opcode, Sender};
use std::{future::Future, io, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

/// The first byte of a text frame that is not fragmented.
pub const TEXT: u8 = FINAL | Opcode::Text as u8;
/// The first byte of a binary frame that is not fragmented.
pub const BINARY: u8 = FINAL | Opcode::Binary as u8;
/// The first byte of a close frame.
pub const CLOSE: u8 = FINAL | Opcode::Close as u8;
/// The first byte of a ping.
pub const PING: u8 = FINAL | Opcode::Ping as u8;
/// The first byte of a pong.
pub const PONG: u8 = FINAL | Opcode::Pong as u8;

/// An upgrade request, with the key of the example in RFC 6455, 1.3.
pub const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Returns a client's frame with this first byte. The codec writes neither fragments nor invalid first bytes. So this
/// function replaces the first byte that the codec has written.
#[must_use]
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = Vec::new();
    websocket::put_masked(Opcode::Binary, payload, MASK, &mut frame);
    frame[0] = first;
    frame
}

/// Returns the header of a frame without the mask: the first byte, the mask bit and the length. The codec writes the
/// header of a server's frame. So this function then sets the first byte and the mask bit.
#[must_use]
pub fn frame_head(first: u8, mask_bit: u8, len: u64) -> Vec<u8> {
    let mut head = Vec::new();
    websocket::put_head(Opcode::Binary, usize::try_from(len).unwrap(), &mut head);
    head[0] = first;
    head[1] |= mask_bit;
    head
}

/// The response to an HTTP request.
#[derive(Debug)]
pub struct Response {
    /// The status code, such as 101.
    pub status: u16,
    /// The status line and the header fields.
    pub head: String,
    /// The body. Its length is the value of `Content-Length`.
    pub body: String,
}

impl Response {
    /// Returns the value of the header field with this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A TCP connection to the gateway. It reads no more bytes than a test asks for.
pub struct Wire {
    /// The stream, for bytes that are neither HTTP nor a frame.
    pub stream: TcpStream,
}

impl Wire {
    /// Connects without sending any bytes.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// Connects, upgrades and receives the welcome.
    pub async fn upgraded(address: SocketAddr) -> Self {
        let mut wire = Self::connect(address).await;
        wire.send(UPGRADE.as_bytes()).await;
        let response = wire.response().await;
        assert_eq!(response.status, 101, "{response:?}");
        let (first, packet) = wire.frame().await.expect("a welcome");
        assert_eq!((first, &packet[..8]), (BINARY, &[0, 0, 0, 0, 3, 0, 0, 0][..]));
        wire
    }

    /// Sends bytes unchanged.
    pub async fn send(&mut self, bytes: &[u8]) {
        in_time(self.stream.write_all(bytes)).await.unwrap();
    }

    /// Waits for the HTTP response.
    pub async fn response(&mut self) -> Response {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(in_time(self.stream.read_u8()).await.expect("a response"));
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.strip_prefix("HTTP/1.1 ").expect("HTTP/1.1")[..3].parse().unwrap();
        let mut response = Response { status, head, body: String::new() };
        let len = response.header("Content-Length").map_or(0, |len| len.parse().unwrap());
        response.body = String::from_utf8(self.take(len).await).unwrap();
        response
    }

    /// Waits for the next frame of the gateway, and returns its first byte and its payload. Returns `None` if the
    /// connection has ended.
    pub async fn frame(&mut self) -> Option<(u8, Bytes)> {
        let mut bytes = Vec::new();
        let head = loop {
            match in_time(self.stream.read_u8()).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && bytes.is_empty() => return None,
                byte => bytes.push(byte.expect("a frame")),
            }
            if let Some(head) = Head::parse(&bytes, Sender::Server).expect("a server's frame") {
                break head;
            }
        };
        Some((bytes[0], self.take(usize::try_from(head.len).unwrap()).await.into()))
    }

    /// Waits for a close frame and then for the end of the connection, and returns the close code. Fails if another
    /// frame arrives.
    pub async fn closed(&mut self) -> Option<u16> {
        let (first, payload) = self.frame().await.expect("a close frame");
        assert_eq!(first, CLOSE, "{payload:?}");
        assert_eq!(self.frame().await, None, "a frame arrived after the close frame");
        payload.first_chunk().copied().map(u16::from_be_bytes)
    }

    /// Ends the connection with a TCP reset.
    pub fn reset(self) {
        reset(&self.stream);
    }

    async fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        in_time(self.stream.read_exact(&mut bytes)).await.expect("the connection ended too early");
        bytes
    }
}

/// Makes the connection end with a TCP reset once it is dropped.
pub fn reset(stream: &TcpStream) {
    stream.set_zero_linger().unwrap();
}

async fn in_time<T>(io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    time::timeout(PATIENCE, io).await.expect("timed out while reading or writing")
}
