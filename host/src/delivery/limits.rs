//! The limits on how much clients may use, which the operator can change while the gateway runs.

use arc_swap::ArcSwap;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The limits of the section `limits` in gateway.yaml. `None` means that there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The number of live sessions.
    pub sessions: Option<u32>,
    /// The number of live sessions from one address. See [`networks`](super::network::networks).
    pub sessions_per_ip: Option<u32>,
    /// The number of handshakes from one address in a second.
    pub handshakes_per_s_per_ip: Option<u32>,
    /// The number of sessions that begin in a second. Clients that resume a session do not count.
    pub new_sessions_per_s: Option<u32>,
    /// The number of connections whose handshake is not finished. `None` means that the limit of open files decides.
    pub handshakes: Option<u32>,
    /// The number of live sessions of one user.
    pub sessions_per_user: Option<u32>,
    /// What happens when a user has more sessions than that.
    pub on_user_limit: OnUserLimit,
    /// The limits on the packets of one session.
    pub rates: Rates,
}

/// What happens when a user begins one session too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUserLimit {
    /// The user's oldest sessions end.
    #[default]
    CloseOldest,
    /// The new session is not bound to the user.
    Refuse,
}

/// The limits on the packets of one session. A limit of 0 means that there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// The number of packets in a second.
    pub packets_per_s: u32,
    /// The number of bytes in a second, with the headers of the packets.
    pub bytes_per_s: u32,
}

impl Rates {
    /// Returns whether there is a limit.
    #[must_use]
    pub fn is_limited(self) -> bool {
        self != Self::default()
    }
}

/// Why a session may not begin, or may not be bound to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverLimit {
    /// The gateway has as many sessions as it may have.
    #[error("the gateway is full")]
    Sessions,
    /// Too many sessions begin at once.
    #[error("too many clients begin a session, try again")]
    NewSessions,
    /// The client's address has as many sessions as it may have.
    #[error("too many sessions from this address")]
    SessionsPerIp,
    /// The client's address begins handshakes too fast.
    #[error("too many handshakes from this address")]
    HandshakesPerIp,
    /// The user has as many sessions as a user may have.
    #[error("too many sessions of this user")]
    SessionsPerUser,
}

impl OverLimit {
    /// Returns the label of `gateway_handshakes_refused_total`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::NewSessions => "new_sessions",
            Self::SessionsPerIp => "sessions_per_ip",
            Self::HandshakesPerIp => "handshakes_per_ip",
            Self::SessionsPerUser => "sessions_per_user",
        }
    }

    /// Returns the HTTP status of the answer.
    #[must_use]
    pub fn status(self) -> u16 {
        if matches!(self, Self::Sessions | Self::NewSessions) { 503 } else { 429 }
    }
}

/// The limits that hold now.
#[derive(Debug, Default)]
pub struct LiveLimits {
    all: ArcSwap<Limits>,
    /// The rates in one atomic, because every session reads them whenever packets have arrived.
    rates: AtomicU64,
}

impl LiveLimits {
    /// Replaces the limits. They hold from the next handshake and from the next packet on.
    pub fn set(&self, limits: Limits) {
        let Rates { packets_per_s, bytes_per_s } = limits.rates;
        self.rates.store(u64::from(packets_per_s) << 32 | u64::from(bytes_per_s), Ordering::Relaxed);
        self.all.store(Arc::new(limits));
    }

    /// Returns all limits.
    #[must_use]
    pub fn all(&self) -> Limits {
        **self.all.load()
    }

    /// Returns the limits on the packets of one session.
    #[must_use]
    pub fn rates(&self) -> Rates {
        let rates = self.rates.load(Ordering::Relaxed);
        let [packets_per_s, bytes_per_s] = [32, 0].map(|shift| (rates >> shift & u64::from(u32::MAX)) as u32);
        Rates { packets_per_s, bytes_per_s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_returned_as_they_were_set() {
        let live = LiveLimits::default();
        assert!(live.all() == Limits::default() && !live.rates().is_limited());
        for (packets_per_s, bytes_per_s) in [(1, 0), (0, 1), (u32::MAX, 7), (7, u32::MAX)] {
            let rates = Rates { packets_per_s, bytes_per_s };
            live.set(Limits { rates, sessions: Some(3), ..Limits::default() });
            assert_eq!((live.rates(), live.all().sessions), (rates, Some(3)));
            assert!(live.rates().is_limited());
        }
        live.set(Limits::default());
        assert!(!live.rates().is_limited());
    }
}
