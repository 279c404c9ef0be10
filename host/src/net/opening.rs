//! Opens the connections of clients: reads the header of a proxy, performs the TLS handshake, and reads the request for a
//! WebSocket.

use crate::net::{
    admission,
    handshake::{self, Refused, Request},
    proxy_header,
    shared::Shared,
    stream::Stream,
    tcp::Tcp,
    tls::Tls,
};
use crate::sync::half_open::Place;
use std::net::SocketAddr;
use tokio::time::{self, Instant};

/// Opens the stream of a client and reads its request for a WebSocket. Returns both with the client's address, which may be
/// that which a trusted proxy names. Returns `None` if the client was refused, took too long, or had to make room for
/// another one.
pub(super) async fn open(
    mut tcp: Tcp,
    remote: SocketAddr,
    place: Place,
    shared: &Shared,
) -> Option<(Stream, Request, SocketAddr)> {
    let server = &shared.config.server;
    let deadline = || Instant::now() + server.handshake_timeout;
    let mut opening = Opening { shared, remote, place, deadline: deadline() };
    let named = proxy_header::client(&mut tcp, remote, server, &shared.gateway.metrics);
    let client = opening.in_time(named).await??;
    let (remote, deadline) = (client.address, deadline());
    opening = Opening { remote, deadline, ..opening };
    let stream = match &shared.tls {
        None => Stream::Plain(tcp),
        Some(tls) => {
            // A connection without TLS has no room for its handshake.
            let stream = Box::pin(opening.secure(tcp, tls)).await?;
            opening = Opening { shared, remote, place: shared.admission.wait(&shared.gateway), deadline };
            stream
        }
    };
    opening.request(stream, client.may_be_forwarded).await
}

/// A connection that is being opened.
struct Opening<'a> {
    shared: &'a Shared,
    remote: SocketAddr,
    place: Place,
    deadline: Instant,
}

impl Opening<'_> {
    /// Performs the TLS handshake. Returns `None` if it failed, took too long, or had to make room.
    async fn secure(mut self, tcp: Tcp, tls: &Tls) -> Option<Stream> {
        let Shared { gateway, config, admission, .. } = self.shared;
        let remote = self.remote;
        // The connections of a proxy are those of many clients.
        if !config.server.proxies.trust(remote.ip())
            && let Err(limit) = admission.admit_tls(gateway, remote.ip())
        {
            admission::log_over_limit(gateway, remote, limit);
            gateway.metrics.handshake_refused(limit.reason());
            return None;
        }
        match self.in_time(tls.accept(tcp)).await? {
            Ok(stream) => Some(stream),
            Err((refused, mut tcp)) => {
                tracing::debug!(%remote, %refused, "TLS handshake refused");
                admission.refuse(&mut tcp, gateway, &config.server, refused.reason()).await;
                None
            }
        }
    }

    /// Reads a client's request for a WebSocket. Returns `None` if it was refused, took too long, or had to make room.
    async fn request(mut self, mut stream: Stream, may_be_forwarded: bool) -> Option<(Stream, Request, SocketAddr)> {
        let Shared { gateway, config, auth, admission, .. } = self.shared;
        let (mut remote, server) = (self.remote, &config.server);
        let admit = |client| admission.admit(gateway, client);
        let request = handshake::request(&mut stream, &mut remote, may_be_forwarded, server, auth, admit);
        match self.in_time(request).await? {
            Ok(request) => Some((stream, request, remote)),
            Err(refused) => {
                tracing::debug!(%remote, %refused, "handshake refused");
                if let Refused::OverLimit(limit) = refused {
                    admission::log_over_limit(gateway, remote, limit);
                }
                admission.refuse(&mut stream, gateway, server, refused.reason()).await;
                None
            }
        }
    }

    /// Waits for a step of the handshake. Returns `None` if it took too long, or if the connection had to make room for
    /// another one.
    async fn in_time<T>(&mut self, step: impl Future<Output = T>) -> Option<T> {
        let remote = self.remote;
        let reason = tokio::select! {
            biased;
            outcome = time::timeout_at(self.deadline, step) => match outcome {
                Ok(outcome) => return Some(outcome),
                Err(_) => {
                    tracing::debug!(%remote, "handshake timed out");
                    "timeout"
                }
            },
            () = self.place.evicted() => {
                tracing::debug!(%remote, "handshake evicted: too many handshakes are not finished");
                "handshake_evicted"
            }
        };
        self.shared.gateway.metrics.handshake_refused(reason);
        None
    }
}
