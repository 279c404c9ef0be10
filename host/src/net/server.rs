//! Accepts connections, gives each a task, and at the end lets all of them go in good order.

use crate::{
    config, delivery::outbox::Closing, delivery::registry::Session, net::auth::Verifier, net::budget::Budget,
    net::handshake, net::receiver::Receiver, net::session, net::socket::Socket, net::wire::Wire,
    routing::gateway::Gateway,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinError, JoinSet},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

/// The pause after an accept that failed, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the listener until `stop`, then drains: no connection is accepted any more, send queues empty, sessions close with 1001.
/// What is left after the configured time is cut off.
pub async fn serve(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    config: Arc<config::Config>,
    verifier: Option<Arc<Verifier>>,
    stop: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    let budget = Arc::new(Budget::new(config.server.receive_budget_bytes, Arc::clone(&gateway.metrics)));
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = tasks.join_next() => account(&gateway, ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => {
                    let (gateway, config, budget) = (Arc::clone(&gateway), Arc::clone(&config), Arc::clone(&budget));
                    tasks.spawn(connection(stream, remote, gateway, config, verifier.clone(), budget, stop.clone()));
                }
                Err(error) => {
                    gateway.metrics.handshake_refused("accept_failed");
                    if gateway.metrics.log_limits.permit("accept failed", "") {
                        tracing::error!(%error, "cannot accept connections, trying again (raise the limit of open files?)");
                    }
                    time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    drain(&gateway, tasks, config.server.drain_timeout).await;
}

async fn drain(gateway: &Gateway, mut tasks: JoinSet<Option<&'static str>>, timeout: Duration) {
    tracing::info!(connections = tasks.len(), "draining");
    gateway.registry.each(|session| session.outbox.close(going_away()));
    let deadline = Instant::now() + timeout;
    while let Ok(Some(ended)) = time::timeout_at(deadline, tasks.join_next()).await {
        account(gateway, ended);
    }
    if !tasks.is_empty() {
        tracing::warn!(connections = tasks.len(), "cut off: they did not empty their queues in time");
        tasks.shutdown().await;
    }
}

fn going_away() -> Closing {
    Closing { code: 1001, reason: "the gateway stops".to_owned(), cause: "drain" }
}

/// A panic ends the session it happened in, and no other.
fn account(gateway: &Gateway, ended: Result<Option<&'static str>, JoinError>) {
    match ended {
        Ok(Some(cause)) => gateway.metrics.disconnected(cause),
        Ok(None) => {}
        Err(error) => {
            tracing::error!(%error, "a session ended by a defect of the gateway: please report it");
            gateway.metrics.disconnected("panic");
        }
    }
}

/// A connection's life. Nothing where it became no session, else why that ended.
async fn connection(
    mut stream: TcpStream,
    remote: SocketAddr,
    gateway: Arc<Gateway>,
    config: Arc<config::Config>,
    verifier: Option<Arc<Verifier>>,
    budget: Arc<Budget>,
    stop: CancellationToken,
) -> Option<&'static str> {
    let server = &config.server;
    // A packet waits for nobody. An error means that the connection is gone, which the next step sees.
    let _ = stream.set_nodelay(true);
    let upgrade = tokio::select! {
        upgrade = time::timeout(server.handshake_timeout, handshake::upgrade(&mut stream, verifier.as_deref())) => upgrade,
        () = stop.cancelled() => return None,
    };
    let upgraded = match upgrade {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(refused)) => {
            tracing::debug!(%remote, %refused, "handshake refused");
            gateway.metrics.handshake_refused(refused.reason());
            let _ =
                time::timeout(server.handshake_timeout.min(Duration::from_secs(2)), session::linger(&mut stream)).await;
            return None;
        }
        Err(_) => {
            tracing::debug!(%remote, "handshake timed out");
            gateway.metrics.handshake_refused("timeout");
            return None;
        }
    };
    let session = gateway.registry.insert(Session::new(remote, server.outbox));
    let lease = budget.lease(Arc::clone(&session));
    let limits = Arc::clone(&gateway.payload_limits);
    let receiver = Receiver::new(server, lease, limits, Arc::clone(&gateway.metrics));
    let wire = Wire::new(stream, upgraded.early, server.read_buffer_bytes);
    let socket = Socket::new(wire, receiver, server.write_buffer_bytes);
    if let Some(user) = upgraded.user {
        // A fresh session is bound to nobody, so this cannot be refused.
        let _ = gateway.registry.bind(&session, user);
    }
    if stop.is_cancelled() {
        session.outbox.close(going_away());
    }
    gateway.metrics.connections.inc();
    tracing::debug!(session = %session.id, %remote, user = session.user(), "session began");
    let id = session.id;
    let cause = session::run(socket, session, &gateway, server).await;
    tracing::debug!(session = %id, cause, "session ended");
    Some(cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bus, delivery::outbox::Limits, telemetry::metrics::Metrics};

    #[tokio::test]
    async fn a_panic_ends_its_session_alone_and_is_counted() {
        let metrics = Arc::new(Metrics::new());
        let gateway = Gateway::new(metrics, Arc::<bus::Queue<_>>::default(), 1024);
        let limits = Limits { messages: 1, bytes: 1, close_when_full: false, batch_bytes: 1, max_delay: Duration::MAX };
        let session = || gateway.registry.insert(Session::new(SocketAddr::from(([127, 0, 0, 1], 1)), limits));
        let (broken, whole) = (session(), session());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _session = broken;
            panic!("a defect");
        });
        account(&gateway, tasks.join_next().await.unwrap());
        assert_eq!(gateway.registry.len(), 1);
        assert!(gateway.registry.session(whole.id).is_some());
        let text = gateway.metrics.encode().unwrap();
        assert!(text.contains("gateway_disconnections_total{reason=\"panic\"} 1"), "{text}");
    }
}
