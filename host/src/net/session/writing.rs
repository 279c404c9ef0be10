//! Writes the packets that the session's task has taken from its outbox.

use super::{Actor, Flow};
use crate::{
    delivery::outbox::Closing,
    net::{end::End, socket::Error},
};
use std::{
    collections::VecDeque,
    future::poll_fn,
    io, iter,
    ops::ControlFlow,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::{self, Instant};

/// The delay of a timer from which on the gateway itself did not run for a while.
const MIN_STALL: Duration = Duration::from_millis(100);

impl Actor {
    /// Writes the batch. Then ends the session if there is a `closing`.
    pub(super) async fn write(&mut self, closing: Option<Box<Closing>>) -> Flow {
        let count = self.batch.len();
        self.kept.count_written(&self.batch);
        let written = match self.write_now() {
            Poll::Ready(written) => {
                self.count_written(count);
                written
            }
            Poll::Pending => Box::pin(self.write_patiently(count, None)).await,
        };
        closing.map_or(written, |closing| ControlFlow::Break(Box::new((*closing).into())))
    }

    /// Writes the packets that were queued before the session ended.
    pub(super) async fn write_rest(&mut self, deadline: Instant) {
        loop {
            if self.batch.is_empty() {
                let _ = self.session.outbox.drain(&mut self.batch);
            }
            let count = self.batch.len();
            if count == 0 || self.write_patiently(count, Some(deadline)).await.is_break() {
                return;
            }
        }
    }

    /// Writes the batch, if the connection takes all of it at once. Nearly every write does, and needs no timer.
    fn write_now(&mut self) -> Poll<Flow> {
        let batch_bytes = self.shared.config.server.write_buffer_bytes;
        let packets = &mut iter::from_fn(|| self.batch.pop_front());
        self.socket.poll_write(&mut Context::from_waker(Waker::noop()), batch_bytes, packets).map(written)
    }

    /// Writes the batch, which had `count` packets, as the connection takes them.
    async fn write_patiently(&mut self, count: usize, deadline: Option<Instant>) -> Flow {
        let flow = self.write_out(deadline).await;
        self.count_written(count);
        flow
    }

    fn count_written(&mut self, before: usize) {
        self.shared.gateway.metrics.sent.inc_by((before - self.batch.len()) as u64);
        if self.batch.is_empty() {
            // A session with nothing to write holds no buffer.
            self.batch = VecDeque::new();
        }
    }

    /// Writes the batch, until it is written or one of three limits ends the session:
    /// - The client takes no bytes for `idle_timeout` while the gateway runs, and counts as unreachable.
    /// - The client does not take the batch within `send_timeout`, or until `deadline` if there is one, and counts as
    ///   too slow.
    /// - The session is aborted.
    async fn write_out(&mut self, deadline: Option<Instant>) -> Flow {
        let (socket, batch, outbox) = (&mut *self.socket, &mut self.batch, &self.session.outbox);
        let server = &self.shared.config.server;
        let mut packets = iter::from_fn(|| batch.pop_front());
        let deadline = deadline.unwrap_or_else(|| Instant::now() + server.send_timeout);
        loop {
            let before = socket.written();
            let patience = Instant::now() + server.idle_timeout;
            tokio::select! {
                biased;
                outcome = poll_fn(|cx| socket.poll_write(cx, server.write_buffer_bytes, &mut packets)) => return written(outcome),
                closing = poll_fn(|cx| outbox.poll_abort(cx)) => return ControlFlow::Break(Box::new(closing.into())),
                () = time::sleep_until(patience.min(deadline)) => {
                    if Instant::now() >= deadline {
                        return ControlFlow::Break(Box::new(Closing::send_timeout().into()));
                    }
                    // A client that had no time to read while the gateway did not run either has `idle_timeout` again.
                    let has_stalled = patience.elapsed() >= MIN_STALL;
                    if socket.written() == before && !has_stalled {
                        return ControlFlow::Break(Box::new(End::silent("write_timeout")));
                    }
                }
            }
        }
    }
}

fn written(outcome: io::Result<()>) -> Flow {
    outcome.map_or_else(|error| ControlFlow::Break(Box::new(Error::from(error).into())), ControlFlow::Continue)
}
