//! The end of a connection. The session ends with it, or waits for its client.

use super::{Actor, Begun, End};
use crate::{
    delivery::{outbox::Closing, registry::Registered},
    net::{closing::close_by, resume::Arrival, shared::Shared},
    routing::gateway::Offloaded,
};
use std::{ops::ControlFlow, sync::Arc, time::Duration};
use tokio::time::Instant;

/// The time limit for the last writes, the close frame and the client's answer to it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

impl Actor {
    /// Ends the connection, and returns the session with its next one. If the session ends, returns what
    /// [`run`](super::run) returns.
    pub(super) async fn leave(mut self: Box<Self>, end: End) -> ControlFlow<Option<&'static str>, Begun> {
        let End { cause, close, is_break } = end;
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        self.socket.discard();
        let resumes = self.shared.resumes.clone().filter(|_| is_break);
        let is_told = close.is_some();
        if is_told && resumes.is_none() {
            self.write_rest(deadline).await;
        }
        let Self { shared, session, socket, batch, mut kept, .. } = *self;
        let unwritten = batch.len();
        let metrics = Arc::clone(&shared.gateway.metrics);
        let close = async move {
            if let Some(payload) = close {
                close_by(deadline, *socket, &payload, &metrics).await;
            }
        };
        let Some(resumes) = resumes else {
            tokio::join!(depart(&shared, session, kept.offloaded, cause, unwritten), close);
            return ControlFlow::Break(Some(cause));
        };
        shared.gateway.metrics.disconnected(cause);
        // What was not written is kept by the outbox.
        if is_told {
            shared.closings.spawn(close);
        } else {
            drop(close);
        }
        if let Some(offloaded) = kept.offloaded.take() {
            // The next connection gets the answer. An error means that serving the packet panicked.
            let _ = offloaded.await;
        }
        match resumes.wait(&session, &shared.gateway).await {
            Ok(arrival) => {
                let Arrival { socket, expiry, replies_lost } = *arrival;
                shared.gateway.metrics.connections.inc();
                tracing::debug!(session = %session.id, remote = %session.remote(), "session resumed");
                let mut next = Self::new(shared, session, socket, expiry);
                next.kept = kept;
                ControlFlow::Continue((next, Some(replies_lost)))
            }
            Err(other) => {
                // What was not written goes on with the session, or is counted where that fails.
                let goes_on = matches!(other, Some(Closing::HANDED_OVER | Closing::STORED));
                let unwritten = if goes_on { 0 } else { unwritten };
                depart(&shared, session, None, other.unwrap_or(cause), unwritten).await;
                ControlFlow::Break(None)
            }
        }
    }
}

/// Ends the session. If the offload thread still serves its last packet, waits for that. Then tells the plugins.
async fn depart(
    shared: &Shared,
    session: Registered,
    offloaded: Option<Offloaded>,
    cause: &'static str,
    unwritten: usize,
) {
    let Shared { gateway, resumes, .. } = shared;
    let (ended, tags) = gateway.end(session, unwritten);
    if let Some(resumes) = resumes {
        resumes.forget(ended.id);
    }
    tracing::debug!(session = %ended.id, cause, "session ended");
    if let Some(offloaded) = offloaded {
        // An error means that serving the packet panicked.
        let _ = offloaded.await;
    }
    gateway.on_disconnect(ended, cause, tags).await;
}
