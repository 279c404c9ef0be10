//! A client's TCP connection, which reports whether bytes move on it.

use crate::sync::uptime::now_ms;
use std::{
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// A TCP connection that reports whether bytes move on it.
#[derive(Debug)]
pub struct Tcp {
    read: OwnedReadHalf,
    /// The sending side, or `None` while it is lent.
    write: Option<OwnedWriteHalf>,
    /// The time at which bytes last arrived.
    pub heard_ms: u64,
    /// The number of bytes that the system has taken.
    pub written: u64,
}

impl Tcp {
    /// Returns a connection on which nothing has moved yet.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        let (read, write) = stream.into_split();
        Self { read, write: Some(write), heard_ms: now_ms(), written: 0 }
    }

    /// Takes the sending side out of the connection. Until it is back, nothing can be written here.
    pub fn lend(&mut self) -> Option<OwnedWriteHalf> {
        self.write.take()
    }

    /// Takes the sending side back.
    pub fn take_back(&mut self, write: OwnedWriteHalf) {
        self.write = Some(write);
    }

    fn poll_on_write<T>(
        &mut self,
        poll: impl FnOnce(Pin<&mut OwnedWriteHalf>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.write
            .as_mut()
            .map_or_else(|| Poll::Ready(Err(ErrorKind::NotConnected.into())), |write| poll(Pin::new(write)))
    }

    /// Waits for the first byte, and leaves it to be read. Returns `None` if the connection has ended.
    ///
    /// # Errors
    /// Returns the error of the system.
    pub async fn peek(&mut self) -> io::Result<Option<u8>> {
        let mut first = [0];
        Ok((self.read.peek(&mut first).await? > 0).then_some(first[0]))
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        // Without this, the sending side would be shut down by a system call of its own before the connection is closed.
        if let Some(write) = self.write.take() {
            write.forget();
        }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.read).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.heard_ms = now_ms();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.poll_on_write(|write| write.poll_write(cx, bytes)))?;
        self.written += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_on_write(|write| write.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_on_write(|write| write.poll_shutdown(cx))
    }
}
