//! What all connections of the listener share, and how a request becomes a WebSocket.

use super::{
    admission::Admission, budget::Budget, handshake::Request, receiver::Receiver, resume::Resumes, socket::Socket,
    stream::Stream, tls::Tls, wire::Wire,
};
use crate::{auth::Authenticator, config, delivery::session::Session, routing::gateway::Gateway};
use std::sync::Arc;
use tokio::time;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What all connections of the listener share.
pub(super) struct Shared {
    pub(super) gateway: Arc<Gateway>,
    pub(super) config: Arc<config::Config>,
    pub(super) auth: Arc<Authenticator>,
    /// The rules of TLS handshakes, or `None` if the listener speaks plain HTTP.
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) budget: Arc<Budget>,
    pub(super) admission: Admission,
    /// The sessions that outlive their connections, or `None` if they all end with them.
    pub(super) resumes: Option<Arc<Resumes>>,
    /// The ends of connections whose sessions do not wait for them.
    pub(super) closings: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Shared {
    /// Accepts a client's request. Returns `None` if the connection broke.
    pub(super) async fn upgrade(
        &self,
        mut stream: Stream,
        request: Request,
        session: &Arc<Session>,
    ) -> Option<Box<Socket>> {
        match time::timeout(self.config.server.handshake_timeout, request.accept(&mut stream)).await {
            Ok(Ok(early)) => Some(self.socket(stream, early, session)),
            _ => {
                self.gateway.metrics.handshake_refused("gone");
                None
            }
        }
    }

    /// Returns the WebSocket of a session. The box lets it move from one task to another without room for it in both.
    /// `early` is what the client has sent right after its request.
    pub(super) fn socket(&self, stream: Stream, early: Vec<u8>, session: &Arc<Session>) -> Box<Socket> {
        let Self { gateway, config, budget, .. } = self;
        let (lease, limits) = (budget.lease(Arc::clone(session)), Arc::clone(&gateway.payload_limits));
        let receiver = Receiver::new(&config.server, lease, limits, Arc::clone(&gateway.metrics));
        let wire = Wire::new(stream, early, config.server.read_buffer_bytes);
        Box::new(Socket::new(wire, receiver))
    }
}
