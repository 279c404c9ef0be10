//! A WebSocket: the library knows the protocol, and the one task that owns the connection drives it.
//!
//! Not tokio-tungstenite's stream: for a reader and a writer in different tasks it keeps wakers of its own between the connection and the
//! task, and they cost as much as the rest of a small message's way through it.

use crate::{
    config,
    wire::{Progress, Wire},
};
use std::{
    future::poll_fn,
    io::{self, ErrorKind, Read, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::{
    Error, Message,
    protocol::{Role, WebSocketConfig, WebSocketContext},
};

/// What the library takes from a connection at a time. It keeps a buffer of this size for each, busy or not; what is read from the
/// socket at once is the connection's own business.
const SIP: usize = 512;

/// The server's side of an upgraded connection.
pub struct Socket {
    protocol: WebSocketContext,
    wire: Wire,
    /// The connection did not take all of what the library has to write.
    blocked: bool,
}

impl Socket {
    /// A connection on which `early` came behind the upgrade's request.
    #[must_use]
    pub fn new(wire: Wire, early: Vec<u8>, config: &config::Server) -> Self {
        let limits = WebSocketConfig::default()
            .read_buffer_size(SIP)
            .write_buffer_size(config.write_buffer_bytes)
            .max_message_size(Some(config.max_message_bytes))
            .max_frame_size(Some(config.max_message_bytes));
        let protocol = WebSocketContext::from_partially_read(early, Role::Server, Some(limits));
        Self { protocol, wire, blocked: false }
    }

    /// What has moved on the connection.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        self.wire.progress()
    }

    /// The connection below.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// The next message. Nothing is lost where this is given up.
    ///
    /// # Errors
    /// Why there will be no more.
    pub async fn message(&mut self) -> Result<Message, Error> {
        poll_fn(|cx| self.poll_message(cx, false)).await
    }

    /// The next message, if it is there already.
    ///
    /// # Errors
    /// Why there will be no more.
    pub async fn message_at_hand(&mut self) -> Option<Result<Message, Error>> {
        poll_fn(|cx| match self.poll_message(cx, true) {
            Poll::Ready(message) => Poll::Ready(Some(message)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Writes messages, all of them into the library's buffer, and that out, with answers to pings that may be in it.
    ///
    /// # Errors
    /// Why nothing can be written any more.
    pub async fn write(&mut self, mut messages: impl Iterator<Item = Message>) -> Result<(), Error> {
        poll_fn(|cx| self.poll_write(cx, &mut messages)).await
    }

    fn poll_message(&mut self, cx: &mut Context<'_>, at_hand: bool) -> Poll<Result<Message, Error>> {
        pending_if_blocked(self.protocol.read(&mut Io { wire: &mut self.wire, cx, at_hand }))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        messages: &mut impl Iterator<Item = Message>,
    ) -> Poll<Result<(), Error>> {
        loop {
            if self.blocked {
                ready!(self.poll_flush(cx))?;
            }
            let Some(message) = messages.next() else { return self.poll_flush(cx) };
            // Blocked or not, the library has taken it.
            let written = self.protocol.write(&mut Io { wire: &mut self.wire, cx, at_hand: false }, message);
            self.blocked = matches!(pending_if_blocked(written)?, Poll::Pending);
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let flushed = pending_if_blocked(self.protocol.flush(&mut Io { wire: &mut self.wire, cx, at_hand: false }));
        self.blocked = flushed.is_pending();
        match ready!(flushed) {
            // The answer to the other side's close frame was the last that there was to write.
            Err(Error::ConnectionClosed) => Poll::Ready(Ok(())),
            flushed => Poll::Ready(flushed),
        }
    }
}

fn pending_if_blocked<T>(result: Result<T, Error>) -> Poll<Result<T, Error>> {
    match result {
        Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

/// The connection as the library wants it, for one poll: what cannot be done at once would block, and wakes the task up when it can.
struct Io<'a, 'b> {
    wire: &'a mut Wire,
    cx: &'a mut Context<'b>,
    /// Only what has been received is wanted, and nobody has to be woken up for what comes later.
    at_hand: bool,
}

impl Read for Io<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at_hand && self.wire.is_drained() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut buffer = ReadBuf::new(buffer);
        would_block(Pin::new(&mut *self.wire).poll_read(self.cx, &mut buffer))?;
        Ok(buffer.filled().len())
    }
}

impl Write for Io<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        would_block(Pin::new(&mut *self.wire).poll_write(self.cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        would_block(Pin::new(&mut *self.wire).poll_flush(self.cx))
    }
}

fn would_block<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(ErrorKind::WouldBlock.into()),
    }
}
