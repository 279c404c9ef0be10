//! Accepts connections, runs a task for each, and drains them when the gateway stops.

use crate::{
    auth::Authenticator,
    config,
    delivery::limits::OverLimit,
    delivery::outbox::Closing,
    delivery::registry::{Ended, Registered},
    delivery::session::{BindError, Session},
    net::admission::Admission,
    net::budget::Budget,
    net::drain,
    net::expiry::Expiry,
    net::handshake::Request,
    net::opening::open,
    net::resume::{Claim, Found, Resumes},
    net::session::{self, Actor, Begun},
    net::shared::Shared,
    net::stream::Stream,
    net::tcp::Tcp,
    net::tls::Tls,
    net::traced::{Handshake, NotUpgraded},
    routing::{gateway::Gateway, hooks::Asked, refusal::Denied},
    sync::half_open::Place,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
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

/// Opens a connection and begins its session. Returns `None` if there is no session, or if the task of another
/// connection serves it.
async fn begin(stream: TcpStream, mut remote: SocketAddr, place: Place, shared: Arc<Shared>) -> Option<Begun> {
    let Shared { gateway, config, auth, admission, stop, .. } = &*shared;
    let server = &config.server;
    let (mut stream, request) = tokio::select! {
        opened = Box::pin(open(Tcp::new(stream), &mut remote, place, &shared)) => opened?,
        () = stop.cancelled() => return None,
    };
    let handshake = Handshake::begin(&gateway.traces, &request);
    let expiry = request.identity.and_then(Expiry::of).map(Box::new);
    match Box::pin(find(&request, remote, &shared)).await.ok()? {
        Some(Found::Here(claim)) => {
            resume(stream, request, claim, expiry, remote, handshake, &shared).await;
            return None;
        }
        Some(Found::Arrived((session, replies_lost))) => {
            let socket = shared.upgrade(stream, request, &session).await;
            let outcome = if socket.is_some() { Ok(&**session) } else { Err(NotUpgraded::GONE) };
            end_trace(handshake, gateway, remote, outcome);
            let Some(socket) = socket else {
                end_before_it_begins(session, gateway).await;
                return None;
            };
            session.outbox.take_back();
            // The drain may have ended all connections before this session was here.
            if stop.is_cancelled() && !session.outbox.dismiss() {
                session.outbox.close(Closing::going_away());
            }
            gateway.registry.close_oldest_of_user(&session);
            gateway.client_has_arrived(&session).await;
            gateway.metrics.connections.inc();
            return Some((Actor::new(Arc::clone(&shared), session, socket, expiry), Some(replies_lost)));
        }
        Some(Found::NoRoom(limit)) => {
            let refused = NotUpgraded { status: Some(limit.status()), reason: limit.reason() };
            end_trace(handshake, gateway, remote, Err(refused));
            admission.refuse_over_limit(&mut stream, request, limit, remote, gateway, server).await;
            return None;
        }
        None => {}
    }
    let session =
        Session::new(remote, Arc::clone(&server.outbox)).traced(handshake.as_ref().and_then(|it| it.context()));
    let session = if request.identity.is_none() && auth.is_on() { session.anonymous() } else { session };
    // The room comes first, so that clients for which there is none do not use up the rate of others.
    let seat = gateway.registry.reserve(remote.ip());
    let admitted =
        seat.and_then(|seat| admission.admit_new(gateway).map(|()| gateway.registry.admit_to(seat, session)));
    let session = match admitted {
        Ok(session) => session,
        Err(limit) => {
            let refused = NotUpgraded { status: Some(limit.status()), reason: limit.reason() };
            end_trace(handshake, gateway, remote, Err(refused));
            admission.refuse_over_limit(&mut stream, request, limit, remote, gateway, server).await;
            return None;
        }
    };
    let begun = begin_new(&mut stream, request, session, gateway, server, admission).await;
    let outcome = begun.as_ref().map(|(session, _)| &***session).ok_or(NotUpgraded::REFUSED);
    end_trace(handshake, gateway, remote, outcome);
    let (session, request) = begun?;
    let (answer, early) = request.accepted();
    let mut socket = shared.socket(stream, early, &session);
    // It is written together with the welcome.
    socket.put_answer(answer);
    // The drain may have closed all sessions before this one was registered.
    if stop.is_cancelled() {
        session.outbox.close(Closing::going_away());
    }
    gateway.metrics.connections.inc();
    tracing::debug!(session = %session.id, %remote, user = session.user(), "session began");
    Some((Actor::new(Arc::clone(&shared), session, socket, expiry), None))
}

/// The connection had to make room for another one, or the gateway stops.
struct GivenUp;

/// Finds the session that the client wants to resume, if there is one. While other gateways are asked, the handshake is
/// not finished.
async fn find(request: &Request, remote: SocketAddr, shared: &Shared) -> Result<Option<Found>, GivenUp> {
    let (Some(resumes), Some(wanted)) = (&shared.resumes, request.resume()) else { return Ok(None) };
    let mut place = shared.admission.wait(&shared.gateway);
    let given_up = async {
        tokio::select! {
            () = place.evicted() => shared.gateway.metrics.handshake_refused("handshake_evicted"),
            () = shared.stop.cancelled() => {}
        }
        GivenUp
    };
    resumes.find(wanted, shared.auth.is_on().then_some(request.identity), remote, given_up).await
}

/// Gives a connection to the task of the session that the client has claimed.
async fn resume(
    stream: Stream,
    request: Request,
    claim: Claim,
    expiry: Option<Box<Expiry>>,
    remote: SocketAddr,
    handshake: Option<Box<Handshake>>,
    shared: &Shared,
) {
    let socket = shared.upgrade(stream, request, &claim.session).await;
    let outcome = if socket.is_some() { Ok(&*claim.session) } else { Err(NotUpgraded::GONE) };
    end_trace(handshake, &shared.gateway, remote, outcome);
    // Without a connection, the client can try again with the same token, because it cannot have got another one.
    if let Some(socket) = socket {
        claim.complete(socket, expiry, remote);
    }
}

/// Ends the span of a handshake, if it is recorded.
fn end_trace(
    handshake: Option<Box<Handshake>>,
    gateway: &Gateway,
    remote: SocketAddr,
    outcome: Result<&Session, NotUpgraded>,
) {
    if let Some(handshake) = handshake {
        handshake.end(&gateway.traces, remote, outcome);
    }
}

/// Begins a session, if no plugin denies it. Returns it with the request, which is to be accepted, or `None` if the
/// session does not begin.
async fn begin_new(
    stream: &mut Stream,
    request: Request,
    mut session: Registered,
    gateway: &Arc<Gateway>,
    server: &config::Server,
    admission: &Admission,
) -> Option<(Registered, Request)> {
    // A new session is bound to no other user.
    if let Some(identity) = request.identity
        && gateway.registry.bind(&session, identity.user) == Err(BindError::TooManySessions)
    {
        let (limit, remote) = (OverLimit::SessionsPerUser, session.remote());
        drop(session);
        admission.refuse_over_limit(stream, request, limit, remote, gateway, server).await;
        return None;
    }
    if gateway.asks_at_connect() {
        let (query, mut headers) = (request.query(), request.headers(&server.plugin_headers));
        if request.identity.is_some() {
            // A checked token is dropped. The section `auth` may be newer than the list of headers.
            headers.retain(|(name, _)| name != "authorization");
        }
        let asked = Asked { query, headers, claims: request.claims() };
        session = match gateway.on_connect(session, asked).await {
            Ok(session) => session,
            Err((denied, departing)) => {
                let answer = deny(stream, request, &denied, gateway, server, admission);
                tokio::join!(answer, gateway.depart(departing, "not_admitted"));
                return None;
            }
        };
    }
    // Only now, because a client whose session is not admitted must not end another one.
    gateway.registry.close_oldest_of_user(&session);
    Some((session, request))
}

/// Ends a session whose client is gone before it has the answer to its request.
async fn end_before_it_begins(session: Registered, gateway: &Arc<Gateway>) {
    let gone = Arc::clone(&session);
    let Ended { lost, tags } = session.end();
    if lost > 0 {
        gateway.metrics.dropped("session_ended", lost);
    }
    gateway.on_disconnect(gone, "gone", tags).await;
}

/// Answers a client whose session a plugin has denied.
async fn deny(
    stream: &mut Stream,
    request: Request,
    denied: &Denied,
    gateway: &Gateway,
    server: &config::Server,
    admission: &Admission,
) {
    let Denied { status, message, is_decision: _, reason } = denied;
    tracing::debug!(status, why = message, "session denied");
    // The outcome does not matter, because the client has its answer now or never.
    let _ = time::timeout(server.handshake_timeout, request.refuse(stream, *status, message)).await;
    admission.refuse(stream, gateway, server, reason).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bus, delivery::outbox::Limits, telemetry::metrics::Metrics};

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
