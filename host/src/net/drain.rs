//! The end of all connections when the gateway stops.

use super::shared::Shared;
use crate::{config::Reconnect, delivery::outbox::Closing, delivery::session::Session, routing::gateway::Gateway};
use gateway_proto::{Control, control::Event};
use prost::Message as _;
use std::{sync::Arc, time::Duration};
use tokio::{
    task::{JoinError, JoinSet},
    time::{self, Instant},
};

/// The time between two batches of clients that are told to connect again.
const BATCH_INTERVAL: Duration = Duration::from_millis(100);

/// The time that is kept for the clients that stay: their queued packets, and their close frames.
const MAX_CLOSING: Duration = Duration::from_secs(2);

/// The tasks of connections. Each returns what is left to count.
pub(super) type Tasks = JoinSet<Option<&'static str>>;

/// Ends all connections. If clients are to be told where to go on, tells them one batch after the other, and goes on
/// serving those that have not gone yet. Then the queued packets are sent, and sessions close with 1001. Connections that
/// have not ended within `drain_timeout` are cut off.
pub(super) async fn drain(shared: &Shared, mut tasks: Tasks) {
    let Shared { gateway, config, .. } = shared;
    let timeout = config.server.drain_timeout;
    let deadline = Instant::now() + timeout;
    tracing::info!(connections = tasks.len(), "draining");
    if let Some(reconnect) = &config.server.reconnect {
        let is_left = send_away(gateway, reconnect);
        let ended = join_all(gateway, &mut tasks);
        // Whoever has gone on at another gateway needs no close frame.
        let _ = time::timeout_at(deadline - MAX_CLOSING.min(timeout / 4), async { tokio::join!(is_left, ended) }).await;
    }
    gateway.registry.each(|session| session.outbox.close(going_away()));
    let _ = time::timeout_at(deadline, join_all(gateway, &mut tasks)).await;
    if !tasks.is_empty() {
        tracing::warn!(
            connections = tasks.len(),
            "cut off: connections did not empty their send queues in time (server.drain_timeout_s)"
        );
        tasks.shutdown().await;
    }
}

async fn join_all(gateway: &Gateway, tasks: &mut Tasks) {
    while let Some(ended) = tasks.join_next().await {
        account(gateway, ended);
    }
}

/// Tells all clients to connect again, in batches. A session whose client is away ends at once if no other gateway can
/// have it.
async fn send_away(gateway: &Gateway, reconnect: &Reconnect) {
    let sessions = gateway.registry.all();
    let can_move = gateway.handovers.are_possible();
    let per_batch = (reconnect.rate_per_s as usize * BATCH_INTERVAL.as_millis() as usize).div_ceil(1000);
    tracing::info!(sessions = sessions.len(), url = reconnect.url, "clients are told to connect again");
    for batch in sessions.chunks(per_batch.max(1)) {
        for session in batch {
            match session.outbox.is_away() {
                false => tell(session, reconnect),
                true if can_move => {}
                true => session.outbox.close(going_away()),
            }
        }
        time::sleep(BATCH_INTERVAL).await;
    }
}

/// Tells a client to connect again. The clients of a batch do so at different times within the next one.
fn tell(session: &Arc<Session>, reconnect: &Reconnect) {
    let after_ms = i64::from(rand::random_range(0..BATCH_INTERVAL.as_millis() as u32));
    let event = Event::Reconnect(gateway_proto::Reconnect { url: reconnect.url.clone(), after_ms });
    // A client that reads too slowly to be told is closed at the end.
    let _ = session.outbox.control_here(Control { event: Some(event) }.encode_to_vec().into());
}

/// Returns why sessions are closed when the gateway stops.
pub(super) fn going_away() -> Closing {
    Closing { code: 1001, reason: "the gateway stops".to_owned(), cause: "drain" }
}

/// Counts how a connection ended. A panic ends only the session in which it happened.
pub(super) fn account(gateway: &Gateway, ended: Result<Option<&'static str>, JoinError>) {
    match ended {
        Ok(Some(cause)) => gateway.metrics.disconnected(cause),
        Ok(None) => {}
        Err(error) => {
            tracing::error!(%error, "a session ended by a defect of the gateway: please report it");
            gateway.metrics.disconnected("panic");
        }
    }
}
