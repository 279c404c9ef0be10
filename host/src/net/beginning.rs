//! The way from a valid request to a session: the session that the client wants to resume, or a new one.

use crate::{
    delivery::{
        limits::OverLimit,
        outbox::Closing,
        registry::Registered,
        session::{BindError, Session},
    },
    net::{
        admission,
        expiry::Expiry,
        handshake::Request,
        opening::open,
        resume::{Claim, Found},
        session::{Actor, Begun},
        shared::Shared,
        socket::Socket,
        stream::Stream,
        tcp::Tcp,
        traced::{Handshake, NotUpgraded},
    },
    routing::{
        handovers::Arrived,
        hooks::{Asked, Departing},
        refusal::Denied,
    },
    sync::half_open::Place,
};
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpStream, time};

/// Opens a connection and begins its session. Returns `None` if there is no session, or if the task of another
/// connection serves it.
pub(super) async fn begin(stream: TcpStream, remote: SocketAddr, place: Place, shared: Arc<Shared>) -> Option<Begun> {
    let (stream, request, remote) = tokio::select! {
        opened = Box::pin(open(Tcp::new(stream), remote, place, &shared)) => opened?,
        () = shared.stop.cancelled() => return None,
    };
    let span = Handshake::begin(&shared.gateway.traces, &request, &stream);
    let client = Client { shared, stream, request, remote, span };
    // Each is in a box of its own, so that a connection that is being opened has no room for it.
    match Box::pin(client.find()).await.ok()? {
        Some(Found::Here(claim)) => {
            Box::pin(client.resume(claim)).await;
            None
        }
        Some(Found::NoRoom(limit)) => {
            Box::pin(client.refuse(limit)).await;
            None
        }
        Some(Found::NotYet(denied)) => {
            Box::pin(client.deny(&denied)).await;
            None
        }
        Some(Found::Arrived(arrived)) => Box::pin(client.arrive(arrived)).await,
        None => Box::pin(client.begin()).await,
    }
}

/// The connection had to make room for another one, or the gateway stops.
struct GivenUp;

/// A client that has sent a valid request.
struct Client {
    shared: Arc<Shared>,
    stream: Stream,
    request: Request,
    remote: SocketAddr,
    /// The span of the handshake, if the gateway records traces.
    span: Option<Box<Handshake>>,
}

impl Client {
    /// Finds the session that the client wants to resume, if there is one. While other gateways are asked, the handshake
    /// is not finished.
    async fn find(&self) -> Result<Option<Found>, GivenUp> {
        let Shared { gateway, auth, admission, resumes, stop, .. } = &*self.shared;
        let (Some(resumes), Some(wanted)) = (resumes, self.request.resume()) else { return Ok(None) };
        if resumes.is_elsewhere(&wanted)
            && let Some(denied) = gateway.takes_no_sessions()
        {
            return Ok(Some(Found::NotYet(denied)));
        }
        let mut place = admission.wait(gateway);
        let given_up = async {
            tokio::select! {
                () = place.evicted() => gateway.metrics.handshake_refused("handshake_evicted"),
                () = stop.cancelled() => {}
            }
            GivenUp
        };
        resumes.find(wanted, auth.is_on().then_some(self.request.identity), self.remote, given_up).await
    }

    /// Gives the connection to the task of the session that the client has claimed.
    async fn resume(self, claim: Claim) {
        let (expiry, remote) = (self.expiry(), self.remote);
        // Without a connection, the client can try again with the same token, because it cannot have got another one.
        if let Some(socket) = self.upgrade(&claim.session).await {
            claim.complete(socket, expiry, remote);
        }
    }

    /// Goes on with a session that has come from another gateway.
    async fn arrive(self, (session, replies_lost): Arrived) -> Option<Begun> {
        let (shared, expiry) = (Arc::clone(&self.shared), self.expiry());
        let gateway = &shared.gateway;
        let Some(socket) = self.upgrade(&session).await else {
            let (gone, tags) = gateway.end(session, 0);
            gateway.on_disconnect(gone, "gone", tags).await;
            return None;
        };
        session.outbox.take_back();
        // The drain may have ended all connections before this session was here.
        if shared.stop.is_cancelled() && !session.outbox.dismiss() {
            session.outbox.close(Closing::going_away());
        }
        gateway.registry.close_oldest_of_user(&session);
        gateway.client_has_arrived(&session).await;
        gateway.metrics.connections.inc();
        Some((Actor::new(Arc::clone(&shared), session, socket, expiry), Some(replies_lost)))
    }

    /// Begins a new session, unless a limit forbids it or a plugin denies it.
    async fn begin(self) -> Option<Begun> {
        let session = match self.register() {
            Ok(session) => session,
            Err(limit) => {
                self.refuse(limit).await;
                return None;
            }
        };
        let session = match self.ask(session).await {
            Ok(session) => session,
            Err((denied, departing)) => {
                let gateway = Arc::clone(&self.shared.gateway);
                tokio::join!(self.deny(&denied), gateway.depart(departing, "not_admitted"));
                return None;
            }
        };
        self.end_span(Ok(&session));
        let expiry = self.expiry();
        let Self { shared, stream, request, remote, .. } = self;
        let gateway = &shared.gateway;
        // Only now, because a client whose session is not admitted must not end another one.
        gateway.registry.close_oldest_of_user(&session);
        let (answer, early) = request.accepted();
        let mut socket = shared.socket(stream, early, &session);
        // It is written together with the welcome.
        socket.put_answer(answer);
        // The drain may have closed all sessions before this one was registered.
        if shared.stop.is_cancelled() {
            session.outbox.close(Closing::going_away());
        }
        gateway.metrics.connections.inc();
        tracing::debug!(session = %session.id, %remote, user = session.user(), "session began");
        Some((Actor::new(Arc::clone(&shared), session, socket, expiry), None))
    }

    /// Registers a new session, which is bound to the user of the client's token.
    fn register(&self) -> Result<Registered, OverLimit> {
        let Self { shared, request, remote, span, .. } = self;
        let Shared { gateway, config, auth, admission, .. } = &**shared;
        let context = span.as_ref().and_then(|span| span.context());
        let session = Session::new(*remote, Arc::clone(&config.server.outbox)).traced(context);
        let session = if request.identity.is_none() && auth.is_on() { session.anonymous() } else { session };
        // The room comes first, so that clients for which there is none do not use up the rate of others.
        let seat = gateway.registry.reserve(remote.ip())?;
        admission.admit_new(gateway)?;
        let session = gateway.registry.admit_to(seat, session);
        // A new session is bound to no other user.
        if let Some(identity) = request.identity
            && gateway.registry.bind(&session, identity.user) == Err(BindError::TooManySessions)
        {
            gateway.end(session, 0);
            return Err(OverLimit::SessionsPerUser);
        }
        Ok(session)
    }

    /// Asks the plugins whether the session may begin.
    async fn ask(&self, session: Registered) -> Result<Registered, (Denied, Departing)> {
        let Self { shared, request, .. } = self;
        let gateway = &shared.gateway;
        if !gateway.asks_at_connect() {
            return Ok(session);
        }
        let (query, mut headers) = (request.query(), request.headers(&shared.config.server.plugin_headers));
        if request.identity.is_some() {
            // A checked token is dropped. The section `auth` may be newer than the list of headers.
            headers.retain(|(name, _)| name != "authorization");
        }
        gateway.on_connect(session, Asked { query, headers, claims: request.claims() }).await
    }

    /// Accepts the request. Returns `None` if the connection broke.
    async fn upgrade(self, session: &Arc<Session>) -> Option<Box<Socket>> {
        let Self { shared, stream, request, remote, span } = self;
        let socket = shared.upgrade(stream, request, session).await;
        let outcome = if socket.is_some() { Ok(&**session) } else { Err(NotUpgraded::GONE) };
        if let Some(span) = span {
            span.end(&shared.gateway.traces, remote, outcome);
        }
        socket
    }

    /// Answers a client whose session would exceed a limit.
    async fn refuse(self, limit: OverLimit) {
        self.end_span(Err(NotUpgraded { status: Some(limit.status()), reason: limit.reason() }));
        admission::log_over_limit(&self.shared.gateway, self.remote, limit);
        self.answer(limit.status(), &format!("{limit}\n"), limit.reason()).await;
    }

    /// Answers a client whose session a plugin has denied, or for which a plugin is missing.
    async fn deny(self, denied: &Denied) {
        let Denied { status, message, is_decision: _, reason } = denied;
        self.end_span(Err(NotUpgraded { status: Some(*status), reason }));
        tracing::debug!(status, why = message, "session denied");
        self.answer(*status, message, reason).await;
    }

    /// Answers a client that gets no session, and waits a little until it has read the answer.
    async fn answer(self, status: u16, message: &str, reason: &'static str) {
        let Self { shared, mut stream, request, .. } = self;
        let Shared { gateway, config, admission, .. } = &*shared;
        // The outcome does not matter, because the client has its answer now or never.
        let _ = time::timeout(config.server.handshake_timeout, request.refuse(&mut stream, status, message)).await;
        admission.refuse(&mut stream, gateway, &config.server, reason).await;
    }

    fn end_span(&self, outcome: Result<&Session, NotUpgraded>) {
        if let Some(span) = &self.span {
            span.end(&self.shared.gateway.traces, self.remote, outcome);
        }
    }

    fn expiry(&self) -> Option<Box<Expiry>> {
        self.request.identity.and_then(Expiry::of).map(Box::new)
    }
}
