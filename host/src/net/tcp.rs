//! A client's TCP connection, which reports whether bytes move on it.

use crate::sync::uptime::now_ms;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A TCP connection that reports whether bytes move on it.
#[derive(Debug)]
pub struct Tcp {
    stream: TcpStream,
    /// The time at which bytes last arrived.
    pub heard_ms: u64,
    /// The number of bytes that the system has taken.
    pub written: u64,
}

impl Tcp {
    /// Returns a connection on which nothing has moved yet.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, heard_ms: now_ms(), written: 0 }
    }

    /// Waits for the first byte, and leaves it to be read. Returns `None` if the connection has ended.
    ///
    /// # Errors
    /// Returns the error of the system.
    pub async fn peek(&self) -> io::Result<Option<u8>> {
        let mut first = [0];
        Ok((self.stream.peek(&mut first).await? > 0).then_some(first[0]))
    }
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.heard_ms = now_ms();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.written += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
