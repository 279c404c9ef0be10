//! A connection that tells whether anything moves on it: a large message on a slow line is neither silence nor a reader that has
//! stopped.

use crate::uptime::now_ms;
use std::{
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
}

impl Wire {
    /// A connection on which something was heard just now.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        let progress = Progress { heard_ms: AtomicU64::new(now_ms()), written: AtomicU64::new(0) };
        Self { stream, progress: Arc::new(progress) }
    }

    /// What has moved on it.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.progress.heard_ms.store(now_ms(), Ordering::Relaxed);
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
