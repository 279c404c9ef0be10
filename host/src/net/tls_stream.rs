//! A TCP connection under TLS, at the server's end.
//!
//! The usual connection of the TLS library was rejected, since it has a buffer of 4 KiB for as long as it lives, which is
//! more than all the rest of an idle session takes. This stream uses the library's connection without buffers. Records
//! are read into a buffer of the thread, and an idle connection keeps no buffer.

use crate::net::tcp::Tcp;
use std::{
    cell::RefCell,
    fmt,
    future::poll_fn,
    io::{self, ErrorKind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::{
    ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

/// The minimum number of bytes that are read from the connection at once.
const MIN_READ_BYTES: usize = 4096;

/// The maximum number of received bytes that wait until they are complete. A record has at most 16 KiB and some. A
/// message of a handshake may consist of several records, and RFC 8446 allows 16 MiB, but a client needs a few KiB.
const MAX_INCOMPLETE_BYTES: usize = 17 << 10;

/// The maximum number of bytes that one write encrypts.
const MAX_WRITE_BYTES: usize = 64 << 10;

/// What a record has in addition to its content: at most 5 bytes of header, 8 of a nonce, 16 of a tag and the type. Each
/// record has up to 16 KiB of content.
const RECORD_BYTES: usize = 16 << 10;
const MAX_OVERHEAD_BYTES: usize = 32;

thread_local! {
    /// The buffer that all connections of this thread read their records into.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A TCP connection under TLS.
pub struct TlsStream {
    tcp: Tcp,
    tls: UnbufferedServerConnection,
    /// The received bytes of a record, or of a message of the handshake, that is not complete.
    incomplete: Vec<u8>,
    /// The decrypted bytes that the last read had no room for. Later reads have used the first `used` of them.
    opened: Vec<u8>,
    used: usize,
    /// The encrypted bytes to send. The connection has taken the first `written` of them.
    sealed: Vec<u8>,
    written: usize,
    /// Whether the last read got all bytes that had arrived.
    drained: bool,
    /// Whether the client has said that it sends no more.
    ended: bool,
    /// Whether the client has been told that no more is sent.
    closed: bool,
}

impl TlsStream {
    /// Performs the handshake by these rules. The caller sets a timeout.
    ///
    /// # Errors
    /// Returns the connection and an error of the system, or [`ErrorKind::InvalidData`] if the client broke a rule. The
    /// client has received an alert by then, unless the connection broke.
    pub async fn accept(rules: Arc<ServerConfig>, tcp: Tcp) -> Result<Box<Self>, (io::Error, Tcp)> {
        let tls = match UnbufferedServerConnection::new(rules) {
            Ok(tls) => tls,
            Err(error) => return Err((invalid(error), tcp)),
        };
        let (incomplete, opened, sealed) = (Vec::new(), Vec::new(), Vec::new());
        let (drained, ended, closed) = (false, false, false);
        let mut stream =
            Box::new(Self { tcp, tls, incomplete, opened, used: 0, sealed, written: 0, drained, ended, closed });
        match poll_fn(|cx| stream.poll_handshake(cx)).await {
            Ok(()) => Ok(stream),
            Err(error) => Err((error, stream.tcp)),
        }
    }

    /// Returns the TCP connection below.
    #[must_use]
    pub fn tcp(&self) -> &Tcp {
        &self.tcp
    }

    /// Returns the TCP connection below.
    pub fn tcp_mut(&mut self) -> &mut Tcp {
        &mut self.tcp
    }

    /// Returns whether no byte can be waiting: the last read got all bytes that had arrived, and what they decrypt to was
    /// read.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drained && self.opened.is_empty()
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send(cx))?;
            if !self.tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            // A client may send its first bytes together with the end of its handshake.
            ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])))?;
        }
    }

    /// Reads from the connection once, and opens the records that are complete. Their bytes go to `out` and, if it is
    /// full, to `opened`.
    fn poll_receive(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let kept = self.incomplete.len();
            let size = kept + out.remaining().max(MIN_READ_BYTES);
            if scratch.len() < size {
                scratch.resize(size, 0);
            }
            let mut buffer = ReadBuf::new(&mut scratch[kept..size]);
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut buffer))?;
            let received = buffer.filled().len();
            if received == 0 {
                return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
            }
            self.drained = received < size - kept;
            scratch[..kept].copy_from_slice(&self.incomplete);
            let records = &mut scratch[..kept + received];
            let opened = self.open(records, out);
            // The alert, if the client broke a rule, or new keys. If the connection takes nothing now, the next write or
            // flush sends it.
            if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            let rest = &scratch[opened?..kept + received];
            if rest.len() > MAX_INCOMPLETE_BYTES {
                return Poll::Ready(Err(invalid("a message of the handshake is too long")));
            }
            self.incomplete = rest.to_vec();
            Poll::Ready(Ok(()))
        })
    }

    /// Opens the records that are complete, and returns how many bytes they have.
    fn open(&mut self, records: &mut [u8], out: &mut ReadBuf<'_>) -> io::Result<usize> {
        let mut done = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(&mut records[done..]);
            let goes_on = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        discard += record.discard;
                        let (now, later) = record.payload.split_at(record.payload.len().min(out.remaining()));
                        out.put_slice(now);
                        self.opened.extend_from_slice(later);
                    }
                    true
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(&mut self.sealed, 0, |free| data.encode(free).map_err(Into::into))?;
                    true
                }
                // Everything is sent in the order in which it was encoded, so nothing overtakes it.
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    true
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.ended = true;
                    true
                }
                // There is no early data, because the rules do not allow it.
                Ok(_) => false,
                Err(error) => {
                    self.alert(&mut records[done + discard..])?;
                    return Err(invalid(error));
                }
            };
            done += discard;
            if !goes_on {
                return Ok(done);
            }
        }
    }

    /// Queues the alert that belongs to an error, if there is one. The library needs to see the records again.
    fn alert(&mut self, records: &mut [u8]) -> io::Result<()> {
        while let Ok(ConnectionState::EncodeTlsData(mut data)) = self.tls.process_tls_records(records).state {
            append(&mut self.sealed, 0, |free| data.encode(free).map_err(Into::into))?;
        }
        Ok(())
    }

    /// Queues the records that `content` encrypts. What TLS itself has to say, such as new keys, comes first.
    fn seal(&mut self, content: Content<'_>) -> io::Result<()> {
        loop {
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(&mut self.incomplete);
            let done = match state.map_err(invalid)? {
                ConnectionState::EncodeTlsData(mut data) => {
                    append(&mut self.sealed, 0, |free| data.encode(free).map_err(Into::into))?;
                    false
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    false
                }
                ConnectionState::PeerClosed => {
                    self.ended = true;
                    false
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    match content {
                        Content::Bytes(bytes) => {
                            let guess = bytes.len() + (bytes.len() / RECORD_BYTES + 1) * MAX_OVERHEAD_BYTES;
                            append(&mut self.sealed, guess, |free| traffic.encrypt(bytes, free).map_err(Into::into))?;
                        }
                        Content::End => {
                            append(&mut self.sealed, MAX_OVERHEAD_BYTES, |free| {
                                traffic.queue_close_notify(free).map_err(Into::into)
                            })?;
                        }
                    }
                    true
                }
                _ => return Err(ErrorKind::BrokenPipe.into()),
            };
            self.incomplete.drain(..discard);
            if done {
                return Ok(());
            }
        }
    }

    /// Writes the encrypted bytes.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.sealed.len() {
            let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.sealed[self.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        // A connection with nothing to send holds no buffer.
        (self.sealed, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            let left = &self.opened[self.used..];
            let now = left.len().min(buffer.remaining());
            buffer.put_slice(&left[..now]);
            self.used += now;
            if self.used == self.opened.len() {
                (self.opened, self.used) = (Vec::new(), 0);
            }
            if buffer.filled().len() > before || buffer.remaining() == 0 || self.ended {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_receive(cx, buffer))?;
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // The next bytes are encrypted only when the connection has taken the last ones, so few of them wait.
        ready!(self.poll_send(cx))?;
        let taken = bytes.len().min(MAX_WRITE_BYTES);
        self.seal(Content::Bytes(&bytes[..taken]))?;
        // If the connection takes nothing now, the next write or flush waits for it.
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            self.closed = true;
            self.seal(Content::End)?;
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

/// What is encrypted.
#[derive(Clone, Copy)]
enum Content<'a> {
    Bytes(&'a [u8]),
    /// The news that no more bytes come.
    End,
}

/// Why records cannot be put into a buffer.
enum Unput {
    /// The buffer is shorter than this many bytes.
    TooShort(usize),
    Other(io::Error),
}

impl From<EncodeError> for Unput {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(error) => Self::TooShort(error.required_size),
            error @ EncodeError::AlreadyEncoded => Self::Other(io::Error::other(error)),
        }
    }
}

impl From<EncryptError> for Unput {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(error) => Self::TooShort(error.required_size),
            error @ EncryptError::EncryptExhausted => Self::Other(io::Error::other(error)),
        }
    }
}

/// Appends records. `put` writes them into a buffer and returns their length. The first buffer has `guess` bytes, and if
/// they are too few, the next one has as many as are needed.
fn append(
    sealed: &mut Vec<u8>,
    guess: usize,
    mut put: impl FnMut(&mut [u8]) -> Result<usize, Unput>,
) -> io::Result<()> {
    let start = sealed.len();
    let mut size = guess;
    loop {
        sealed.resize(start + size, 0);
        match put(&mut sealed[start..]) {
            Ok(length) => {
                sealed.truncate(start + length);
                return Ok(());
            }
            Err(Unput::TooShort(needed)) => size = needed,
            Err(Unput::Other(error)) => {
                sealed.truncate(start);
                return Err(error);
            }
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
