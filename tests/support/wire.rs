//! A connection whose every byte is the test's own, for what a well-behaved client never sends.

use crate::PATIENCE;
use bytes::Bytes;
use std::{future::Future, io, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

/// The first byte of an unfragmented text frame.
pub const TEXT: u8 = 0x81;
/// Of a binary one.
pub const BINARY: u8 = 0x82;
/// Of a close frame.
pub const CLOSE: u8 = 0x88;
/// Of a ping.
pub const PING: u8 = 0x89;
/// Of a pong.
pub const PONG: u8 = 0x8a;

/// An upgrade request, with the key of the example in RFC 6455, 1.3.
pub const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// A client's frame: its first byte, the length in its shortest form, a mask, the masked payload.
#[must_use]
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let masked = payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    let mut frame = frame_head(first, 0x80, payload.len() as u64);
    frame.extend(MASK);
    frame.extend(masked);
    frame
}

/// What a frame begins with: its first byte, and the length in its shortest form beside the mask bit.
#[must_use]
pub fn frame_head(first: u8, mask_bit: u8, len: u64) -> Vec<u8> {
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ ..126), _) => vec![first, mask_bit | len],
        (_, Ok(len)) => [&[first, mask_bit | 126][..], &len.to_be_bytes()].concat(),
        _ => [&[first, mask_bit | 127][..], &len.to_be_bytes()].concat(),
    }
}

/// What was answered to an HTTP request.
#[derive(Debug)]
pub struct Response {
    /// Such as 101.
    pub status: u16,
    /// The status line and the header fields.
    pub head: String,
    /// As long as `Content-Length` says.
    pub body: String,
}

impl Response {
    /// The header field with this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A TCP connection to the gateway. Only what it is asked for is read from it.
pub struct Wire {
    /// For what is neither HTTP nor a frame.
    pub stream: TcpStream,
}

impl Wire {
    /// Connects, and sends nothing.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// Connects, upgrades and takes the welcome.
    pub async fn upgraded(address: SocketAddr) -> Self {
        let mut wire = Self::connect(address).await;
        wire.send(UPGRADE.as_bytes()).await;
        let response = wire.response().await;
        assert_eq!(response.status, 101, "{response:?}");
        let (first, packet) = wire.frame().await.expect("a welcome");
        assert_eq!((first, &packet[..8]), (BINARY, &[0, 0, 0, 0, 3, 0, 0, 0][..]));
        wire
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        in_time(self.stream.write_all(bytes)).await.unwrap();
    }

    /// The HTTP response, which has to come.
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

    /// The next frame of the gateway, its first byte and its payload; nothing where the connection ended instead.
    pub async fn frame(&mut self) -> Option<(u8, Bytes)> {
        let first = match in_time(self.stream.read_u8()).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
            first => first.expect("a frame"),
        };
        let len = match in_time(self.stream.read_u8()).await.unwrap() {
            126 => usize::from(in_time(self.stream.read_u16()).await.unwrap()),
            127 => usize::try_from(in_time(self.stream.read_u64()).await.unwrap()).unwrap(),
            len @ ..126 => usize::from(len),
            _ => panic!("a frame of the gateway is masked"),
        };
        Some((first, self.take(len).await.into()))
    }

    /// Takes a close frame, which has to come next, and then the end of the connection. Answers with the close code.
    pub async fn closed(&mut self) -> Option<u16> {
        let (first, payload) = self.frame().await.expect("a close frame");
        assert_eq!(first, CLOSE, "{payload:?}");
        assert_eq!(self.frame().await, None, "something came after the close frame");
        payload.first_chunk().copied().map(u16::from_be_bytes)
    }

    /// Ends the connection with a TCP reset.
    pub fn reset(self) {
        reset(&self.stream);
    }

    async fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        in_time(self.stream.read_exact(&mut bytes)).await.expect("the rest");
        bytes
    }
}

/// Lets the connection end with a TCP reset, once it is dropped.
pub fn reset(stream: &TcpStream) {
    stream.set_zero_linger().unwrap();
}

async fn in_time<T>(io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    time::timeout(PATIENCE, io).await.expect("nothing came, or nothing was taken")
}
