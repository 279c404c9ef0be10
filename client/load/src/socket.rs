//! The two directions of a socket. Bytes go out in bursts, and come in through a buffer that all sockets of a thread
//! share.

use std::borrow::Cow;
use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::io::ErrorKind;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use anyhow::{bail, ensure};
use gateway_connection::Ended;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use crate::tls::Tls;

/// The most bytes that one read takes.
const READ_BYTES: usize = 256 << 10;

/// The most bytes that may wait for one socket. More would wait only if the other side takes less than it is sent for a
/// long time, and then the run measures nothing.
const MAX_WAITING_BYTES: usize = 256 << 20;

thread_local! {
    /// The buffer for reads. One for each socket was rejected, since thousands of sessions would need gigabytes.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// The sending direction of a socket. Any thread may use it.
pub(crate) struct Outlet {
    half: OwnedWriteHalf,
    tls: Option<Arc<Tls>>,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    /// Under TLS, these are records.
    bytes: Vec<u8>,
    /// Whether [`Outlet::drain`] is writing bytes that have waited before `bytes`.
    draining: bool,
    /// Whether the last bytes of the stream are written or wait.
    finished: bool,
}

impl Outlet {
    /// Makes the outlet of a session, or of a connection to Redis, which has no TLS.
    pub(crate) fn new(half: OwnedWriteHalf, tls: Option<Arc<Tls>>) -> Self {
        Self { half, tls, waiting: Mutex::default(), wake: Notify::new() }
    }

    /// Writes as many bytes as the socket takes. The rest waits for [`Self::drain`].
    pub(crate) fn send(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut waiting = self.waiting();
        if waiting.finished {
            return Ok(());
        }
        let bytes = self.sealed(bytes)?;
        let written = if waiting.draining || !waiting.bytes.is_empty() {
            0
        } else {
            match self.half.try_write(&bytes) {
                Ok(written) => written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                // The task that reads from the socket sees the failure as well, and its cause.
                Err(_) => return Ok(()),
            }
        };
        self.wait(&mut waiting, &bytes[written..])
    }

    /// Sends the last bytes of the stream. Bytes that are sent later are dropped.
    pub(crate) fn finish(&self, last: &[u8]) {
        // The socket is about to be closed, so bytes that cannot be sent are no loss.
        let _ = self.send(last);
        self.waiting().finished = true;
    }

    /// Leaves the bytes to [`Self::drain`], which writes all queued bytes at once.
    pub(crate) fn queue(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut waiting = self.waiting();
        let bytes = self.sealed(bytes)?;
        self.wait(&mut waiting, &bytes)
    }

    /// The bytes as they go over the wire. The caller holds the lock of those that wait, so that records are written in
    /// the order in which they are made.
    fn sealed<'a>(&self, bytes: &'a [u8]) -> anyhow::Result<Cow<'a, [u8]>> {
        Ok(match &self.tls {
            None => Cow::Borrowed(bytes),
            Some(tls) => Cow::Owned(tls.seal(bytes)?),
        })
    }

    fn wait(&self, waiting: &mut Waiting, bytes: &[u8]) -> anyhow::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if waiting.bytes.len() + bytes.len() > MAX_WAITING_BYTES {
            bail!("{} MiB wait to be sent: the other side takes less than that", MAX_WAITING_BYTES >> 20);
        }
        waiting.bytes.extend_from_slice(bytes);
        if !waiting.draining {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Writes the bytes that wait. Never ends: if the socket breaks, the task that reads from it ends and says why.
    pub(crate) async fn drain(&self) -> ! {
        let mut batch = Vec::new();
        loop {
            self.wake.notified().await;
            loop {
                {
                    let mut waiting = self.waiting();
                    mem::swap(&mut batch, &mut waiting.bytes);
                    waiting.draining = !batch.is_empty();
                }
                if batch.is_empty() {
                    break;
                }
                if self.write_all(&batch).await.is_err() {
                    pending::<()>().await;
                }
                batch.clear();
            }
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            self.half.writable().await?;
            match self.half.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // No code under the lock panics half-way through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The receiving direction of a socket.
pub(crate) struct Reader {
    pub(crate) half: OwnedReadHalf,
    pub(crate) tls: Option<Arc<Tls>>,
    /// Bytes that have arrived already.
    pub(crate) received: Vec<u8>,
}

impl Reader {
    /// Reads until the stream ends or `take` fails, and returns the reason.
    ///
    /// The socket is polled by hand, so that the shared buffer is not held while the task waits. It is polled with
    /// `poll_read`, which knows after a read that does not fill the buffer that there is nothing more, and saves a
    /// system call.
    pub(crate) async fn read(self, mut take: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Error {
        let Self { mut half, tls, received } = self;
        if !received.is_empty()
            && let Err(error) = take(&received)
        {
            return error;
        }
        loop {
            let outcome = poll_fn(|cx| {
                SCRATCH.with_borrow_mut(|scratch| match &tls {
                    None => poll_take(&mut half, cx, scratch, &mut take),
                    Some(tls) => poll_take(&mut half, cx, scratch, &mut |piece| match tls.open(piece)? {
                        bytes if bytes.is_empty() => Ok(()),
                        bytes => take(&bytes),
                    }),
                })
            });
            if let Err(error) = outcome.await {
                return error;
            }
        }
    }
}

/// Reads until `length` finds a whole unit at the beginning of the received bytes, and returns the length of that unit.
/// It is for the answers at the beginning of a connection. A [`Reader`] takes the bytes behind them.
pub(crate) async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
    received: &mut Vec<u8>,
    length: impl Fn(&[u8]) -> anyhow::Result<Option<usize>>,
) -> anyhow::Result<usize> {
    loop {
        if let Some(length) = length(received)? {
            return Ok(length);
        }
        ensure!(stream.read_buf(received).await? > 0, "it ended the connection");
    }
}

fn poll_take(
    half: &mut OwnedReadHalf,
    cx: &mut Context<'_>,
    scratch: &mut [u8],
    take: &mut impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> Poll<anyhow::Result<()>> {
    let mut piece = ReadBuf::new(scratch);
    let outcome = ready!(Pin::new(half).poll_read(cx, &mut piece));
    Poll::Ready(match outcome {
        Ok(()) if piece.filled().is_empty() => Err(Ended::Lost("it was closed without a word".into()).into()),
        Ok(()) => take(piece.filled()),
        Err(error) => Err(Ended::Lost(error.to_string()).into()),
    })
}
