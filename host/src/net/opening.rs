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

/// Opens the stream of a client and reads its request for a WebSocket. Returns `None` if the client was refused, took
/// too long, or had to make room for another one. `remote` becomes the client's address as soon as a trusted proxy names
/// it.
pub(super) async fn open(
    mut tcp: Tcp,
    remote: &mut SocketAddr,
    mut place: Place,
    shared: &Shared,
) -> Option<(Stream, Request)> {
    let server = &shared.config.server;
    let named = proxy_header::client(&mut tcp, *remote, server, &shared.gateway.metrics);
    let client = in_time(named, *remote, &mut place, shared, Instant::now() + server.handshake_timeout).await??;
    *remote = client.address;
    let deadline = Instant::now() + server.handshake_timeout;
    let (mut stream, place) = match &shared.tls {
        None => (Stream::Plain(tcp), place),
        Some(tls) => {
            // A connection without TLS has no room for its handshake.
            let stream = Box::pin(secure(tcp, tls, *remote, place, shared, deadline)).await?;
            (stream, shared.admission.wait(&shared.gateway))
        }
    };
    let request = request(&mut stream, remote, client.may_be_forwarded, place, shared, deadline).await?;
    Some((stream, request))
}

/// Performs the TLS handshake. Returns `None` if it failed, took too long, or had to make room.
async fn secure(
    tcp: Tcp,
    tls: &Tls,
    remote: SocketAddr,
    mut place: Place,
    shared: &Shared,
    deadline: Instant,
) -> Option<Stream> {
    let Shared { gateway, config, admission, .. } = shared;
    // The connections of a proxy are those of many clients.
    if !config.server.proxies.trust(remote.ip())
        && let Err(limit) = admission.admit_tls(gateway, remote.ip())
    {
        admission::log_over_limit(gateway, remote, limit);
        gateway.metrics.handshake_refused(limit.reason());
        return None;
    }
    match in_time(tls.accept(tcp), remote, &mut place, shared, deadline).await? {
        Ok(stream) => Some(stream),
        Err((refused, mut tcp)) => {
            tracing::debug!(%remote, %refused, "TLS handshake refused");
            admission.refuse(&mut tcp, gateway, &config.server, refused.reason()).await;
            None
        }
    }
}

/// Reads a client's request for a WebSocket. Returns `None` if it was refused, took too long, or had to make room.
async fn request(
    stream: &mut Stream,
    remote: &mut SocketAddr,
    may_be_forwarded: bool,
    mut place: Place,
    shared: &Shared,
    deadline: Instant,
) -> Option<Request> {
    let Shared { gateway, config, auth, admission, .. } = shared;
    let (peer, server) = (*remote, &config.server);
    let admit = |client| admission.admit(gateway, client);
    let request = handshake::request(stream, remote, may_be_forwarded, server, auth, admit);
    match in_time(request, peer, &mut place, shared, deadline).await? {
        Ok(request) => Some(request),
        Err(refused) => {
            tracing::debug!(%remote, %refused, "handshake refused");
            if let Refused::OverLimit(limit) = refused {
                admission::log_over_limit(gateway, *remote, limit);
            }
            admission.refuse(stream, gateway, server, refused.reason()).await;
            None
        }
    }
}

/// Waits for a step of a handshake. Returns `None` if it took too long, or if the connection had to make room for
/// another one.
async fn in_time<T>(
    step: impl Future<Output = T>,
    remote: SocketAddr,
    place: &mut Place,
    shared: &Shared,
    deadline: Instant,
) -> Option<T> {
    let reason = tokio::select! {
        biased;
        outcome = time::timeout_at(deadline, step) => match outcome {
            Ok(outcome) => return Some(outcome),
            Err(_) => {
                tracing::debug!(%remote, "handshake timed out");
                "timeout"
            }
        },
        () = place.evicted() => {
            tracing::debug!(%remote, "handshake evicted: too many handshakes are not finished");
            "handshake_evicted"
        }
    };
    shared.gateway.metrics.handshake_refused(reason);
    None
}
