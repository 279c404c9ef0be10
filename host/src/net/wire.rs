//! A connection that knows whether anything moves on it: a large message on a slow line is neither silence nor a reader that has
//! stopped. It holds no buffer while nothing moves: it reads into a buffer of its thread, and keeps only what is not a message yet.

use crate::sync::uptime::now_ms;
use std::{
    cell::RefCell,
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

/// A TCP connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    read_bytes: usize,
    heard_ms: u64,
    written: u64,
    /// What was received and not taken yet, behind `taken` bytes that were.
    rest: Vec<u8>,
    taken: usize,
    /// The last read did not fill its buffer.
    drained: bool,
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Wire {
    /// A connection that reads up to `read_bytes` at once, and on which the bytes `early` were received just now.
    #[must_use]
    pub fn new(stream: TcpStream, early: Vec<u8>, read_bytes: usize) -> Self {
        Self { stream, read_bytes, heard_ms: now_ms(), written: 0, rest: early, taken: 0, drained: false }
    }

    /// The connection itself. What was received and not taken is lost.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// Whatever the system says.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// For how long nothing was received.
    #[must_use]
    pub fn silence(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.heard_ms))
    }

    /// Takes a time during which nobody read out of the silence.
    pub fn excuse(&mut self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.heard_ms = self.heard_ms.saturating_add(time).min(now_ms());
    }

    /// How many bytes were written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether bytes were received that are not taken yet.
    #[must_use]
    pub fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Whether all that had been received at the last read has been taken.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drained && self.rest.is_empty()
    }

    /// Lets `take` take from the front of what was received.
    pub fn take_rest<T>(&mut self, take: impl FnOnce(&mut &[u8]) -> T) -> T {
        let mut left = &self.rest[self.taken..];
        let taken = take(&mut left);
        self.taken = self.rest.len() - left.len();
        if left.is_empty() {
            (self.rest, self.taken) = (Vec::new(), 0);
        }
        taken
    }

    /// Receives more, and lets `take` take from the front of all that is there.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] after the last byte, and whatever the system says.
    pub fn poll_receive<T>(&mut self, cx: &mut Context<'_>, take: impl FnOnce(&mut &[u8]) -> T) -> Poll<io::Result<T>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let kept = self.rest.len() - self.taken;
            let size = kept + self.read_bytes;
            if scratch.len() < size {
                scratch.resize(size, 0);
            }
            let mut buffer = ReadBuf::new(&mut scratch[kept..size]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            let received = buffer.filled().len();
            if received == 0 {
                return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
            }
            self.drained = received < self.read_bytes;
            self.heard_ms = now_ms();
            scratch[..kept].copy_from_slice(&self.rest[self.taken..]);
            let mut left = &scratch[..kept + received];
            let taken = take(&mut left);
            (self.rest, self.taken) = (left.to_vec(), 0);
            Poll::Ready(Ok(taken))
        })
    }

    /// Writes the first of the bytes.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.written += written as u64;
        Poll::Ready(if written == 0 { Err(ErrorKind::WriteZero.into()) } else { Ok(written) })
    }
}
