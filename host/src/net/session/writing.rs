//! Writes the packets that the session's task has taken from its outbox.

use super::{Actor, End};
use crate::{delivery::outbox::Closing, net::socket::Error};
use futures_util::FutureExt;
use std::{collections::VecDeque, future::poll_fn, io, iter, ops::ControlFlow, time::Duration};
use tokio::time::{self, Instant};

/// The delay of a timer from which on the gateway itself did not run for a while.
const MIN_STALL: Duration = Duration::from_millis(100);

impl Actor<'_> {
    /// Writes the batch. Then ends the session if there is a `closing`.
    pub(super) async fn write(&mut self, closing: Option<Closing>) -> ControlFlow<End> {
        let written = self.write_batch(None).await;
        closing.map_or(written, |closing| ControlFlow::Break(closing.into()))
    }

    /// Writes the packets that were queued before the session ended.
    pub(super) async fn write_rest(&mut self, deadline: Instant) {
        loop {
            if self.batch.is_empty() {
                let _ = self.session.outbox.drain(&mut self.batch);
            }
            if self.batch.is_empty() || self.write_batch(Some(deadline)).await.is_break() {
                return;
            }
        }
    }

    async fn write_batch(&mut self, deadline: Option<Instant>) -> ControlFlow<End> {
        let count = self.batch.len();
        let flow = self.write_out(deadline).await;
        self.context.gateway.metrics.sent.inc_by((count - self.batch.len()) as u64);
        if self.batch.is_empty() {
            // A session with nothing to write holds no buffer.
            self.batch = VecDeque::new();
        }
        flow
    }

    /// Writes the batch, until it is written or one of three limits ends the session:
    /// - The client takes no bytes for `idle_timeout` while the gateway runs, and counts as unreachable.
    /// - The client does not take the batch within `send_timeout`, or until `deadline` if there is one, and counts as
    ///   too slow.
    /// - The session is aborted.
    async fn write_out(&mut self, deadline: Option<Instant>) -> ControlFlow<End> {
        let (socket, batch, outbox) = (&mut *self.socket, &mut self.batch, &self.session.outbox);
        let mut packets = iter::from_fn(|| batch.pop_front());
        // Nearly every write finishes at once and needs no timer.
        if let Some(outcome) = poll_fn(|cx| socket.poll_write(cx, &mut packets)).now_or_never() {
            return written(outcome);
        }
        let deadline = deadline.unwrap_or_else(|| Instant::now() + self.context.config.send_timeout);
        loop {
            let before = socket.written();
            let patience = Instant::now() + self.context.config.idle_timeout;
            tokio::select! {
                biased;
                outcome = poll_fn(|cx| socket.poll_write(cx, &mut packets)) => return written(outcome),
                closing = poll_fn(|cx| outbox.poll_abort(cx)) => return ControlFlow::Break(closing.into()),
                () = time::sleep_until(patience.min(deadline)) => {
                    if Instant::now() >= deadline {
                        return ControlFlow::Break(Closing::send_timeout().into());
                    }
                    // A client that had no time to read while the gateway did not run either has `idle_timeout` again.
                    let has_stalled = patience.elapsed() >= MIN_STALL;
                    if socket.written() == before && !has_stalled {
                        return ControlFlow::Break(End::silent("write_timeout"));
                    }
                }
            }
        }
    }
}

fn written(outcome: io::Result<()>) -> ControlFlow<End> {
    outcome.map_or_else(|error| ControlFlow::Break(Error::from(error).into()), ControlFlow::Continue)
}
