//! A client's connection that reports whether bytes move on it. So a slow transfer of a large message is mistaken
//! neither for silence nor for a client that has stopped reading. Under TLS, these are the encrypted bytes.
//!
//! An idle connection holds no buffer. Reads go into a buffer of the thread, and the connection keeps only the bytes
//! that no message has used yet.

use crate::{net::stream::Stream, sync::uptime::now_ms};
use std::{
    cell::RefCell,
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::tcp::OwnedWriteHalf,
};

/// A client's connection.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    read_bytes: u32,
    /// The bytes that were received. Messages have used the first `used` of them.
    unused: Vec<u8>,
    used: usize,
    /// Whether the last read got all bytes that had arrived.
    drained: bool,
}

thread_local! {
    /// The buffer that all connections of this thread read into.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Wire {
    /// Returns a connection that reads up to `read_bytes` bytes at once. The bytes `early` were already received on it.
    #[must_use]
    pub fn new(mut stream: Stream, early: Vec<u8>, read_bytes: usize) -> Self {
        // The time that plugins took to admit the client is no silence of the client.
        stream.tcp_mut().heard_ms = now_ms();
        let read_bytes = u32::try_from(read_bytes).unwrap_or(u32::MAX);
        Self { stream, read_bytes, unused: early, used: 0, drained: false }
    }

    /// Returns the stream. Bytes that were received and not used are lost.
    #[must_use]
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Takes the sending side out of the connection. Under TLS it cannot be taken out, because reading may need it too.
    pub fn lend(&mut self) -> Option<OwnedWriteHalf> {
        if let Stream::Plain(tcp) = &mut self.stream { tcp.lend() } else { None }
    }

    /// Takes the sending side back.
    pub fn take_back(&mut self, write: OwnedWriteHalf) {
        self.stream.tcp_mut().take_back(write);
    }

    /// Closes the sending side of the connection.
    ///
    /// # Errors
    /// Returns the error of the system.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Returns for how long nothing was received.
    #[must_use]
    pub fn silence(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.stream.tcp().heard_ms))
    }

    /// Subtracts the time `time`, in which the gateway did not read, from the silence.
    pub fn subtract_from_silence(&mut self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let tcp = self.stream.tcp_mut();
        tcp.heard_ms = tcp.heard_ms.saturating_add(time).min(now_ms());
    }

    /// Returns the number of bytes that the system has taken so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.stream.tcp().written
    }

    /// Returns whether there are received bytes that no message has used.
    #[must_use]
    pub fn has_unused(&self) -> bool {
        !self.unused.is_empty()
    }

    /// Returns whether the last read got all received bytes and messages have used all of them.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drained && self.unused.is_empty()
    }

    /// Calls `take` with the unused bytes. `take` moves the start of the slice behind the bytes that it uses.
    pub fn use_unused<T>(&mut self, take: impl FnOnce(&mut &[u8]) -> T) -> T {
        let mut left = &self.unused[self.used..];
        let used = take(&mut left);
        self.used = self.unused.len() - left.len();
        if left.is_empty() {
            (self.unused, self.used) = (Vec::new(), 0);
        }
        used
    }

    /// Receives more bytes, and calls `take` with all unused bytes. `take` moves the start of the slice behind the
    /// bytes that it uses.
    ///
    /// # Errors
    /// Returns [`ErrorKind::UnexpectedEof`] after the last byte, or the error of the system.
    pub fn poll_receive<T>(&mut self, cx: &mut Context<'_>, take: impl FnOnce(&mut &[u8]) -> T) -> Poll<io::Result<T>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let kept = self.unused.len() - self.used;
            let read_bytes = self.read_bytes as usize;
            let size = kept + read_bytes;
            if scratch.len() < size {
                scratch.resize(size, 0);
            }
            let mut buffer = ReadBuf::new(&mut scratch[kept..size]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            let received = buffer.filled().len();
            if received == 0 {
                return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
            }
            self.drained = match &self.stream {
                Stream::Plain(_) => received < read_bytes,
                Stream::Tls(tls) => tls.is_drained(),
            };
            scratch[..kept].copy_from_slice(&self.unused[self.used..]);
            let mut left = &scratch[..kept + received];
            let used = take(&mut left);
            (self.unused, self.used) = (left.to_vec(), 0);
            Poll::Ready(Ok(used))
        })
    }

    /// Writes as many bytes from the front as possible, and returns their number. The system has taken them only after
    /// [`Self::poll_flush`].
    ///
    /// # Errors
    /// Returns the error of the system.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        Poll::Ready(if written == 0 { Err(ErrorKind::WriteZero.into()) } else { Ok(written) })
    }

    /// Waits until the system has taken all bytes that were written.
    ///
    /// # Errors
    /// Returns the error of the system.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}
