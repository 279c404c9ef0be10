//! The two directions of a socket: bytes go out in bursts, and come in through a buffer that all sockets of a thread share.

use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::io::ErrorKind;
use std::mem;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use anyhow::{bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use crate::connection::Ended;

/// What one read may take.
const READ_BYTES: usize = 256 << 10;

/// What may wait for one socket. More of it waits only if the other side takes less than it is sent for a long time, and to wait
/// on would measure nothing.
const MAX_WAITING_BYTES: usize = 256 << 20;

thread_local! {
    /// Not one per socket: thousands of sessions would need gigabytes.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// Where bytes go out, from any thread.
pub(super) struct Outlet {
    half: OwnedWriteHalf,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// [`Outlet::drain`] is writing what has waited before `bytes`.
    draining: bool,
    /// Nothing goes out any more but what waits.
    finished: bool,
}

impl Outlet {
    pub(super) fn new(half: OwnedWriteHalf) -> Self {
        Self { half, waiting: Mutex::default(), wake: Notify::new() }
    }

    /// Writes at once what the socket takes; the rest waits.
    pub(super) fn send(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut waiting = self.waiting();
        if waiting.finished {
            return Ok(());
        }
        let written = if waiting.draining || !waiting.bytes.is_empty() {
            0
        } else {
            match self.half.try_write(bytes) {
                Ok(written) => written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                // Whoever reads from the socket learns of it, and why.
                Err(_) => return Ok(()),
            }
        };
        self.wait(&mut waiting, &bytes[written..])
    }

    /// Sends the last bytes of the stream. Nothing that is sent later goes out.
    pub(super) fn finish(&self, last: &[u8]) {
        // What cannot be sent on a socket that is left anyway is no loss.
        let _ = self.send(last);
        self.waiting().finished = true;
    }

    /// Leaves the bytes to [`Self::drain`]: one write for all that is queued before it has its turn.
    pub(super) fn queue(&self, bytes: &[u8]) -> anyhow::Result<()> {
        self.wait(&mut self.waiting(), bytes)
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

    /// Writes what waits, for ever: when the socket breaks, whoever reads from it says so, and may know why.
    pub(super) async fn drain(&self) -> ! {
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
        // Nothing under the lock panics half-way through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where bytes come in.
pub(super) struct Reader {
    pub(super) half: OwnedReadHalf,
    /// What has come in already.
    pub(super) received: Vec<u8>,
}

impl Reader {
    /// Reads until the stream ends or `take` fails, and returns why that is.
    ///
    /// Polled by hand, since the buffer is not to be held while nothing is there to be read; and with `poll_read`, which after a
    /// read that does not fill the buffer saves the one that finds nothing more.
    pub(super) async fn read(self, mut take: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Error {
        let Self { mut half, received } = self;
        if !received.is_empty()
            && let Err(error) = take(&received)
        {
            return error;
        }
        loop {
            let outcome = poll_fn(|cx| SCRATCH.with_borrow_mut(|scratch| poll_take(&mut half, cx, scratch, &mut take)));
            if let Err(error) = outcome.await {
                return error;
            }
        }
    }
}

/// Reads until `length` finds something whole at the beginning of what was received, and says how long that is. For a beginning
/// that is asked for; what follows is for a [`Reader`].
pub(super) async fn receive(
    tcp: &mut TcpStream,
    received: &mut Vec<u8>,
    length: impl Fn(&[u8]) -> anyhow::Result<Option<usize>>,
) -> anyhow::Result<usize> {
    loop {
        if let Some(length) = length(received)? {
            return Ok(length);
        }
        ensure!(tcp.read_buf(received).await? > 0, "it ended the connection");
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
