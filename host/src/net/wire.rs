//! A connection that tells whether anything moves on it: a large message on a slow line is neither silence nor a reader that has
//! stopped. And one that holds no buffer while nothing does: it reads much at once into a buffer of its thread, and keeps what was not asked
//! for yet.

use crate::sync::uptime::now_ms;
use std::{
    cell::RefCell,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// What has moved.
#[derive(Debug)]
pub struct Progress {
    heard_ms: AtomicU64,
    written: AtomicU64,
}

impl Progress {
    /// For how long nothing was read.
    #[must_use]
    pub fn silence(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.heard_ms.load(Ordering::Relaxed)))
    }

    /// How many bytes were written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// A TCP connection whose progress can be seen.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    progress: Arc<Progress>,
    /// What was read, but not asked for yet, behind what was.
    rest: Vec<u8>,
    asked: usize,
    /// The last read left room in its buffer.
    drained: bool,
    read_bytes: usize,
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Wire {
    /// A connection on which something was heard just now, and which reads up to `read_bytes` at once.
    #[must_use]
    pub fn new(stream: TcpStream, read_bytes: usize) -> Self {
        let progress = Progress { heard_ms: AtomicU64::new(now_ms()), written: AtomicU64::new(0) };
        Self { stream, progress: Arc::new(progress), rest: Vec::new(), asked: 0, drained: false, read_bytes }
    }

    /// What has moved on it.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Whether all that had been received at the last read has been handed over.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drained && self.rest.is_empty()
    }

    /// Ready when the system has something to read.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_read_ready(cx)
    }

    fn read_into(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < self.read_bytes {
                scratch.resize(self.read_bytes, 0);
            }
            let mut read = ReadBuf::new(&mut scratch[..self.read_bytes]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            let (asked, rest) = read.filled().split_at(read.filled().len().min(buffer.remaining()));
            buffer.put_slice(asked);
            self.rest = rest.to_vec();
            self.drained = read.remaining() > 0;
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            ready!(self.read_into(cx, buffer))?;
            self.progress.heard_ms.store(now_ms(), Ordering::Relaxed);
        } else {
            let taken = buffer.remaining().min(self.rest.len() - self.asked);
            buffer.put_slice(&self.rest[self.asked..self.asked + taken]);
            self.asked += taken;
            if self.asked == self.rest.len() {
                (self.rest, self.asked) = (Vec::new(), 0);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.progress.written.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
