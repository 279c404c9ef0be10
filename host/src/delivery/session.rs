//! The part of a session that all threads may use: its outbox, its user, and what it holds.

use crate::{
    delivery::{
        conduct::Conduct,
        holdings::Holdings,
        outbox::{Limits, Outbox},
        owner::Owner,
    },
    sync::uptime::{now_ms, unix_ms},
    traces::SpanContext,
};
use std::{
    mem,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use uuid::Uuid;

/// The part of a session that all threads may use. The socket belongs to the session's own task alone.
#[derive(Debug)]
pub struct Session {
    /// The session's identifier in packets, logs and deliveries.
    pub id: Uuid,
    /// The address of the client, which may come back from another one.
    remote: Mutex<(IpAddr, u16)>,
    /// The packets that wait to be sent to the client.
    pub outbox: Outbox,
    /// The record of calls that were slow or failed because of the session's packets.
    pub conduct: Conduct,
    /// When the session began, in seconds on the clock of [`now_ms`]. So few bits fit into a gap between other fields.
    began_s: u32,
    /// The user. It is set under the lock of the holdings, so that no session is bound after its end.
    user: OnceLock<i64>,
    /// Whether the client has no token although tokens are checked. Then no packet of it names a user.
    is_anonymous: bool,
    /// Whether the session ever had a tag. Without one, reading the tag takes no lock.
    is_tagged: AtomicBool,
    /// The number of the last change of the bus's subscriptions that the session needs, or 0.
    listens_since: AtomicU64,
    /// The number of packets that were received, over all connections.
    packets: AtomicU64,
    /// The span of the handshake, or that of the client if the handshake is not recorded. A session that comes from
    /// another gateway has none. The box keeps sessions small.
    trace: Option<Box<SpanContext>>,
    /// What the session holds, or `None` after its end.
    holdings: Mutex<Option<Holdings>>,
}

/// Why a session cannot be bound to a user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The session is bound to another user. A session keeps its first user.
    #[error("the session is bound to another user")]
    BoundToAnother,
    /// The user has as many sessions as a user may have, and a further one is refused.
    #[error("too many sessions of this user")]
    TooManySessions,
    /// The session has ended, for example while its packet waited for a slow plugin.
    #[error("the session has ended")]
    Ended,
}

impl Session {
    /// Returns a session with a new id that is bound to no user and holds nothing.
    #[must_use]
    pub fn new(remote: SocketAddr, limits: impl Into<Arc<Limits>>) -> Self {
        Self {
            id: Uuid::new_v4(),
            remote: Mutex::new((remote.ip(), remote.port())),
            outbox: Outbox::new(limits),
            conduct: Conduct::default(),
            began_s: u32::try_from(now_ms() / 1000).unwrap_or(u32::MAX),
            user: OnceLock::new(),
            is_anonymous: false,
            is_tagged: AtomicBool::new(false),
            listens_since: AtomicU64::new(0),
            packets: AtomicU64::new(0),
            trace: None,
            holdings: Mutex::new(Some(Holdings::default())),
        }
    }

    /// Returns the session as one that comes from another gateway, where it had this id. Its messages wait until it has
    /// its connection.
    #[must_use]
    pub fn moving_in(self, id: Uuid) -> Self {
        self.outbox.begin_moving_in();
        Self { id, ..self }
    }

    /// Returns the session as one of a client without a token, on a gateway that checks tokens.
    #[must_use]
    pub fn anonymous(self) -> Self {
        Self { is_anonymous: true, ..self }
    }

    /// Returns the session as one whose handshake has this span, or whose client does.
    #[must_use]
    pub fn traced(self, trace: Option<SpanContext>) -> Self {
        Self { trace: trace.map(Box::new), ..self }
    }

    /// Returns the span of the handshake, or that of the client if the handshake is not recorded.
    #[must_use]
    pub fn trace(&self) -> Option<&SpanContext> {
        self.trace.as_deref()
    }

    /// Returns whether the client has no token although tokens are checked.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.is_anonymous
    }

    /// Counts a packet that was received.
    pub fn count_packet(&self) {
        // Only the session's own task counts.
        self.packets.store(self.packets() + 1, Ordering::Relaxed);
    }

    /// Returns the number of packets that were received, over all connections.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// Sets the number of packets that were received, at another gateway.
    pub fn set_packets(&self, packets: u64) {
        self.packets.store(packets, Ordering::Relaxed);
    }

    /// Returns the address of the client.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        SocketAddr::from(*self.remote.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records that the client has come back from this address. Returns the one that it had before.
    pub(super) fn set_remote(&self, remote: SocketAddr) -> SocketAddr {
        let mut current = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        SocketAddr::from(mem::replace(&mut *current, (remote.ip(), remote.port())))
    }

    /// Returns when the session began, in milliseconds since 1970, to the second.
    #[must_use]
    pub fn connected_at_ms(&self) -> u64 {
        unix_ms().saturating_sub(now_ms().saturating_sub(u64::from(self.began_s) * 1000))
    }

    /// Returns the user that the session is bound to. It stays the same after the session's end.
    #[must_use]
    pub fn user(&self) -> Option<i64> {
        self.user.get().copied()
    }

    /// Returns the tag that the owner gave the session, or 0. After the session's end, returns 0.
    #[must_use]
    pub fn tag(&self, owner: &Owner) -> u64 {
        if !self.is_tagged.load(Ordering::Acquire) {
            return 0;
        }
        self.holdings().as_ref().and_then(|holdings| holdings.of(owner)).map_or(0, |share| share.tag)
    }

    /// Returns the number of the last change of the bus's subscriptions that the session needs. It is 0 if the session
    /// listens to nothing.
    #[must_use]
    pub fn listens_since(&self) -> u64 {
        self.listens_since.load(Ordering::Relaxed)
    }

    /// Records that the session needs this change of the bus's subscriptions.
    pub fn set_listens_since(&self, change: u64) {
        self.listens_since.fetch_max(change, Ordering::Relaxed);
    }

    /// Gives the session the attributes that the owner can read. Does nothing after the session's end.
    pub fn set_attributes(&self, owner: &Arc<Owner>, attributes: Vec<(String, String)>) {
        if !attributes.is_empty()
            && let Some(holdings) = &mut *self.holdings()
        {
            holdings.share(owner).attributes = attributes;
        }
    }

    pub(super) fn set_tag(&self, owner: &Arc<Owner>, tag: u64) {
        // A session that never had a tag has the tag 0 already, and needs no memory for it.
        if (tag != 0 || self.is_tagged.load(Ordering::Acquire))
            && let Some(holdings) = &mut *self.holdings()
        {
            holdings.share(owner).tag = tag;
            self.is_tagged.store(true, Ordering::Release);
        }
    }

    /// Binds the session to this user. Returns false if the session is already bound to this user.
    pub(super) fn bind(&self, user: i64) -> Result<bool, BindError> {
        let holdings = self.holdings();
        if holdings.is_none() {
            return Err(BindError::Ended);
        }
        let is_new = self.user.set(user).is_ok();
        if self.user() == Some(user) { Ok(is_new) } else { Err(BindError::BoundToAnother) }
    }

    /// Ends the session. From here on, it is neither bound nor given anything. Returns what it held, or `None` if it had
    /// already ended.
    pub(super) fn end(&self) -> Option<Holdings> {
        self.holdings().take()
    }

    pub(super) fn holdings(&self) -> MutexGuard<'_, Option<Holdings>> {
        // No code under the lock panics in the middle of a change, so poisoned holdings are consistent.
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
