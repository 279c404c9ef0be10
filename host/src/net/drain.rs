//! The end of all connections when the gateway stops.

use super::shared::Shared;
use crate::{config::Reconnect, delivery::outbox::Closing, delivery::session::Session, routing::gateway::Gateway};
use gateway_proto::{Control, control::Event};
use prost::Message as _;
use std::{convert::Infallible, future, sync::Arc, time::Duration};
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
/// serving those that have not gone yet. Then sessions that can be resumed are left in Redis. The queued packets of the
/// others are sent. All connections close with 1001, and those that have not ended within `drain_timeout` are cut off.
pub(super) async fn drain(shared: &Shared, mut tasks: Tasks) {
    let Shared { gateway, config, resumes, .. } = shared;
    let timeout = config.server.drain_timeout;
    let deadline = Instant::now() + timeout;
    tracing::info!(connections = tasks.len(), "draining");
    if let Some(reconnect) = &config.server.reconnect {
        if let Some(resumes) = resumes
            && !gateway.handovers.are_possible()
        {
            resumes.leave();
        }
        // Whoever has gone on at another gateway needs no close frame.
        let gone = async {
            tokio::select! {
                () = join_all(gateway, &mut tasks) => {}
                never = send_away(gateway, reconnect) => match never {},
            }
        };
        let _ = time::timeout_at(deadline - MAX_CLOSING.min(timeout / 4), gone).await;
    }
    // The task of each session that can wait in Redis writes it there.
    let can_leave = resumes.as_ref().is_some_and(|resumes| resumes.leave());
    gateway.registry.each(|session| {
        if !(can_leave && session.outbox.dismiss()) {
            session.outbox.close(Closing::going_away());
        }
    });
    let _ = time::timeout_at(deadline, join_all(gateway, &mut tasks)).await;
    // The clients of sessions that wait in Redis still get their close frames.
    shared.closings.close();
    let _ = time::timeout_at(deadline, shared.closings.wait()).await;
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
/// have it, and if it cannot wait in Redis.
async fn send_away(gateway: &Gateway, reconnect: &Reconnect) -> Infallible {
    let mut sessions = gateway.registry.all();
    let can_move = gateway.handovers.can_store();
    if can_move {
        // Nobody is there to be told.
        sessions.retain(|session| !session.outbox.is_away());
    }
    tracing::info!(sessions = sessions.len(), url = reconnect.url, "clients are told to connect again");
    for batch in batches(&sessions, reconnect.rate_per_s) {
        for session in batch {
            match session.outbox.is_away() {
                false => tell(session, reconnect),
                true if can_move => {}
                true => session.outbox.close(Closing::going_away()),
            }
        }
        time::sleep(BATCH_INTERVAL).await;
    }
    future::pending().await
}

/// Divides the sessions into batches, one for each [`BATCH_INTERVAL`], so that there are `per_s` in a second.
fn batches<T>(sessions: &[T], per_s: u32) -> impl Iterator<Item = &[T]> {
    let end = move |batch: u64| {
        let told = u128::from(batch) * u128::from(per_s) * BATCH_INTERVAL.as_millis() / 1000;
        usize::try_from(told).map_or(sessions.len(), |told| told.min(sessions.len()))
    };
    (0..).map_while(move |batch| (end(batch) < sessions.len()).then(|| &sessions[end(batch)..end(batch + 1)]))
}

/// Tells a client to connect again. The clients of a batch do so at different times within the next one.
fn tell(session: &Arc<Session>, reconnect: &Reconnect) {
    let after_ms = i64::from(rand::random_range(0..BATCH_INTERVAL.as_millis() as u32));
    let event = Event::Reconnect(gateway_proto::Reconnect { url: reconnect.url.clone(), after_ms });
    // A client that reads too slowly to be told is closed at the end.
    let _ = session.outbox.control_here(Control { event: Some(event) }.encode_to_vec().into());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_clients_are_told_in_a_second_as_the_rate_says() {
        let sessions: Vec<_> = (0..50).collect();
        for (per_s, in_the_first) in [(1, 1), (11, 11), (500, 50)] {
            let first: usize = batches(&sessions, per_s).take(10).map(<[_]>::len).sum();
            assert_eq!(first, in_the_first, "{per_s}");
            assert_eq!(batches(&sessions, per_s).flatten().copied().collect::<Vec<_>>(), sessions, "{per_s}");
        }
    }
}
