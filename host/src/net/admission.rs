//! Limits on connections that have no session yet, and the answers to those that get none.

use crate::{
    config,
    delivery::limits::OverLimit,
    net::closing::linger,
    net::handshake_rate::HandshakeRate,
    routing::gateway::Gateway,
    sync::{
        half_open::{HalfOpen, Place},
        rate_limit::RateLimit,
    },
};
use rustix::process::{Resource, getrlimit};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time,
};

/// The maximum time that a client may take to read the answer to a refused handshake.
const REFUSAL_LINGER: Duration = Duration::from_secs(2);

/// The share of the file descriptors that handshakes may use by default, as a divisor.
const DESCRIPTORS_DIVISOR: u64 = 4;

/// The largest default bound. A handshake that waits takes 1 KiB, or up to 17 KiB if its client sends a long request slowly,
/// and twice as much with TLS. So this many take from 16 to 544 MiB.
const MAX_DEFAULT: u32 = 16_384;

/// The time that every client has for its handshake, even if there are no file descriptors for others. A handshake with TLS
/// takes one round trip.
const MIN_WAIT: Duration = Duration::from_millis(300);

/// The state of the limits on connections that have no session.
pub struct Admission {
    half_open: Arc<HalfOpen>,
    /// The bound on unfinished handshakes if none is configured.
    default_half_open: u32,
    handshake_rate: HandshakeRate,
    tls_rate: HandshakeRate,
    new_sessions: RateLimit,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            half_open: Arc::default(),
            default_half_open: default_max(),
            handshake_rate: HandshakeRate::default(),
            tls_rate: HandshakeRate::default(),
            new_sessions: RateLimit::default(),
        }
    }
}

impl Admission {
    /// Begins to wait for a client that has no session.
    pub fn wait(&self, gateway: &Gateway) -> Place {
        self.half_open.enter(gateway.registry.limits.all().handshakes.unwrap_or(self.default_half_open))
    }

    /// Evicts the older half of the connections that have waited for [`MIN_WAIT`]. Returns whether there was any.
    pub fn evict_half(&self) -> bool {
        self.half_open.evict_half(MIN_WAIT)
    }

    /// Checks and counts a handshake against the limit of its address.
    ///
    /// # Errors
    /// Returns the limit that would be exceeded.
    pub fn admit(&self, gateway: &Gateway, address: IpAddr) -> Result<(), OverLimit> {
        let limit = gateway.registry.limits.all().handshakes_per_s_per_ip;
        let is_admitted = limit.is_none_or(|per_s| self.handshake_rate.permit(address, per_s));
        is_admitted.then_some(()).ok_or(OverLimit::HandshakesPerIp)
    }

    /// Checks and counts a session that is about to begin. Clients that resume a session have no such limit, so a crowd
    /// of new ones does not keep them out.
    ///
    /// # Errors
    /// Returns the limit that would be exceeded.
    pub fn admit_new(&self, gateway: &Gateway) -> Result<(), OverLimit> {
        let limit = gateway.registry.limits.all().new_sessions_per_s;
        let is_admitted = limit.is_none_or(|per_s| self.new_sessions.permit(per_s));
        is_admitted.then_some(()).ok_or(OverLimit::NewSessions)
    }

    /// Checks and counts a TLS handshake against twice the limit of its address. Over the limit itself, a client still gets
    /// an HTTP answer. A client that begins even more handshakes is not worth the signature that each one costs.
    ///
    /// # Errors
    /// Returns the limit that would be exceeded.
    pub fn admit_tls(&self, gateway: &Gateway, address: IpAddr) -> Result<(), OverLimit> {
        let limit = gateway.registry.limits.all().handshakes_per_s_per_ip;
        let is_admitted = limit.is_none_or(|per_s| self.tls_rate.permit(address, per_s.saturating_mul(2)));
        is_admitted.then_some(()).ok_or(OverLimit::HandshakesPerIp)
    }

    /// Counts a refused handshake, and waits a little until the client has read its answer.
    pub async fn refuse(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        gateway: &Gateway,
        server: &config::Server,
        reason: &'static str,
    ) {
        gateway.metrics.handshake_refused(reason);
        let mut place = self.wait(gateway);
        // The client has its answer now or never, so the outcome does not matter.
        tokio::select! {
            _ = time::timeout(server.handshake_timeout.min(REFUSAL_LINGER), linger(stream)) => {}
            () = place.evicted() => {}
        }
    }
}

/// Logs which address is over which limit.
pub fn log_over_limit(gateway: &Gateway, remote: SocketAddr, limit: OverLimit) {
    if gateway.metrics.log_limits.permit("handshake over a limit", limit.reason()) {
        tracing::warn!(%remote, reason = limit.reason(), "handshake refused: {limit} (section `limits`)");
    }
}

/// Returns the default bound, which depends on the limit of open files.
#[must_use]
pub fn default_max() -> u32 {
    let share = open_files() / DESCRIPTORS_DIVISOR;
    u32::try_from(share).map_or(MAX_DEFAULT, |share| share.clamp(1, MAX_DEFAULT))
}

/// Returns the number of files that this process may have open.
#[must_use]
pub fn open_files() -> u64 {
    // No number means that there is no limit.
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
