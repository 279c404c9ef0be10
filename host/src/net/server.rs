//! Accepts connections, runs a task for each, and drains them when the gateway stops.

use crate::{
    auth::Authenticator,
    config,
    net::{
        admission::Admission, beginning::begin, budget::Budget, drain, resume::Resumes, session, shared::Shared,
        tls::Tls,
    },
    routing::gateway::Gateway,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The pause after a failed accept. The usual cause of such a failure is a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The pause after a failed accept if connections were evicted, so that descriptors become free.
const EVICTION_PAUSE: Duration = Duration::from_millis(5);

/// The system takes no more bytes for a connection while at least this many wait in it unsent. By default it takes
/// megabytes for a client that reads slowly, and then none until the client has read a third of them. So a slow client
/// would cost memory that no limit counts, would receive old messages, and could seem to read nothing for seconds.
#[cfg(target_os = "linux")]
const MAX_UNSENT_BYTES: u32 = 128 << 10;

/// Listens for clients on an address.
///
/// Connections inherit their options from the listener, so the options cost nothing for each connection. They are set
/// before the first connection can arrive.
///
/// # Errors
/// Returns an error if the address cannot be used, for example because another process listens on it.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // After a restart, connections of the last process do not keep the address.
    socket.set_reuseaddr(true)?;
    socket.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    if let Err(error) = SockRef::from(&socket).set_tcp_notsent_lowat(MAX_UNSENT_BYTES) {
        tracing::warn!(%error, "the bytes that wait unsent in the system for slow clients cannot be limited");
    }
    socket.bind(address)?;
    // The system reduces the number to its own limit.
    socket.listen(u32::MAX)
}

/// Serves the listener until `stop`, and then drains: no connection is accepted, queued packets are sent, and sessions
/// close with 1001. Connections that have not ended within `drain_timeout` are cut off.
pub async fn serve(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    config: Arc<config::Config>,
    auth: Arc<Authenticator>,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    let budget = Arc::new(Budget::new(config.server.receive_budget_bytes, Arc::clone(&gateway.metrics)));
    let admission = Admission::default();
    let resumes = Resumes::new(config.resume, &gateway);
    let closings = TaskTracker::new();
    let shared = Arc::new(Shared { gateway, config, auth, tls, budget, admission, resumes, closings, stop });
    let gateway = &shared.gateway;
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            Some(ended) = tasks.join_next() => drain::account(gateway, ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => {
                    // Here, because the tasks of connections that arrive together do not begin in their order.
                    let place = shared.admission.wait(gateway);
                    // The box is there until the session begins. Without it, every session would have room for it.
                    tasks.spawn(session::run(Box::pin(begin(stream, remote, place, Arc::clone(&shared)))));
                }
                // Without a free descriptor, the system reports the error even if no client waits.
                Err(error) if lacks_files(&error) && !is_waited_for(&listener) => time::sleep(ACCEPT_PAUSE).await,
                Err(error) => {
                    gateway.metrics.handshake_refused("accept_failed");
                    if gateway.metrics.log_limits.permit("accept failed", "") {
                        tracing::error!(
                            %error,
                            "cannot accept connections, trying again (raise the limit of open files?)"
                        );
                    }
                    let evicts = lacks_files(&error) && shared.admission.evict_half();
                    time::sleep(if evicts { EVICTION_PAUSE } else { ACCEPT_PAUSE }).await;
                }
            },
        }
    }
    drop(listener);
    drain::drain(&shared, tasks).await;
}

/// Returns whether the system has no file descriptor for a connection.
fn lacks_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Returns whether a client waits to be accepted.
fn is_waited_for(listener: &TcpListener) -> bool {
    let mut listening = [PollFd::new(listener, PollFlags::IN)];
    // An error says nothing about clients, so one may wait.
    poll(&mut listening, Some(&Timespec::default())).map_or(true, |ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bus,
        delivery::{outbox::Limits, session::Session},
        telemetry::metrics::Metrics,
    };
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn connections_inherit_the_options_of_their_listener() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert!(stream.nodelay().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(SockRef::from(&stream).tcp_notsent_lowat().unwrap(), MAX_UNSENT_BYTES);
    }

    #[tokio::test]
    async fn a_panic_ends_only_its_own_session_and_is_counted() {
        let metrics = Arc::new(Metrics::new());
        let gateway = Gateway::new(metrics, Arc::<bus::Queue<_>>::default(), 1024);
        let limits = Limits::of(1, 1);
        let session = || gateway.registry.admit(Session::new(SocketAddr::from(([127, 0, 0, 1], 1)), limits)).unwrap();
        let (broken, whole) = (session(), session());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _session = broken;
            panic!("a defect");
        });
        drain::account(&gateway, tasks.join_next().await.unwrap());
        assert_eq!(gateway.registry.len(), 1);
        assert!(gateway.registry.session(whole.id).is_some());
        let text = gateway.metrics.encode().unwrap();
        assert!(text.contains("gateway_disconnections_total{reason=\"panic\"} 1"), "{text}");
    }
}
