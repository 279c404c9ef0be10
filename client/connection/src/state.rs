//! What a client knows about its session, and what it does when a connection ends.
//!
//! Nothing in here does I/O, reads a clock or draws a random number. Times are parameters, and a delay is a range in which
//! the caller draws. So `client/vectors/reconnect.json` can list the decisions for clients in any language.
//! docs/protocol.md explains them ("Reconnect and resume").

use std::{mem, time::Duration};

use gateway_proto::{Reconnect, Welcome};
use gateway_wire::packet::{FLAG_ACK, Header, Packet};

use crate::counts::Counts;
use crate::end::End;
use crate::endpoint::Endpoint;
use crate::sent::Sent;

/// The longest delay before the second attempt. It doubles with each attempt that follows.
const BASE: Duration = Duration::from_millis(500);

/// The longest delay before any attempt.
const CAP: Duration = Duration::from_secs(30);

/// The time after its welcome at which a connection counts as good, so that the delays begin at [`BASE`] again.
const LIVED: Duration = Duration::from_secs(10);

/// The least delay after code 1009. Nothing becomes better if the client comes back at once.
const SLOW: Duration = Duration::from_secs(10);

/// The longest time that a server can make the client wait.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// The longest resume token in bytes. Those of a gateway are much shorter, and a URL has to have an end.
const MAX_TOKEN_BYTES: usize = 1024;

/// The number of connections in a row without a welcome after which the server is no gateway.
const MAX_WITHOUT_WELCOME: u32 = 5;

/// The number of failed attempts in a row at the URL of a `Reconnect` after which the client goes back to its own URL.
const MAX_FAILURES_ELSEWHERE: u32 = 4;

/// What the client does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It connects again after a delay in this range.
    Reconnect(Delay),
    /// It asks the application for a new token. With one it connects again at once, and without one it stops.
    RenewToken,
    /// It does not connect again.
    Stop,
}

/// A range of delays. All delays in it are equally likely.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Delay {
    pub(crate) at_least: Duration,
    pub(crate) at_most: Duration,
}

/// What a welcome means for the session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The session goes on.
    Resumed {
        /// The number of packets that are sent again, because the gateway has not received them.
        resent: u64,
        /// The number of packets that the gateway has not received, and that are not sent again.
        lost: u64,
        /// The number of replies that do not come any more.
        replies_lost: u32,
    },
    /// The session is new.
    New {
        /// The number of the last push of the old session. What came after it does not come any more.
        seen: u32,
        /// The number of packets that were never sent.
        lost: u64,
    },
}

/// The session, as its client knows it.
pub(crate) struct State {
    /// The URL that the user has chosen.
    own: Endpoint,
    /// The URL of the next connection.
    url: Endpoint,
    /// The resume token of the last welcome, if it had one.
    token: Option<String>,
    /// Whether there was a welcome at all.
    has_begun: bool,
    /// Whether the present connection has got its welcome.
    is_welcome: bool,
    /// The number of connections and attempts in a row of which none has lived.
    failures: u32,
    /// The number of attempts in a row that have failed at `url`.
    failures_here: u32,
    /// The number of connections in a row that ended without a welcome.
    without_welcome: u32,
    counts: Counts,
    pub(crate) sent: Sent,
}

impl State {
    pub(crate) fn new(url: Endpoint) -> Self {
        Self {
            own: url.clone(),
            url,
            token: None,
            has_begun: false,
            is_welcome: false,
            failures: 0,
            failures_here: 0,
            without_welcome: 0,
            counts: Counts::default(),
            sent: Sent::default(),
        }
    }

    /// The URL to connect to, with what resumes the session if it can be resumed.
    pub(crate) fn url(&self) -> Endpoint {
        match &self.token {
            Some(token) => self.url.resuming(token, self.counts.seen, self.counts.replies),
            None => self.url.clone(),
        }
    }

    /// Takes note of the welcome of a connection.
    pub(crate) fn welcome(&mut self, welcome: &Welcome) -> Outcome {
        // A gateway cannot resume a session that nobody has asked for.
        let resumed = welcome.resumed && self.token.is_some();
        self.token = is_token(&welcome.resume_token).then(|| welcome.resume_token.clone());
        (self.has_begun, self.is_welcome) = (true, true);
        (self.failures_here, self.without_welcome) = (0, 0);
        if resumed {
            let lost = self.sent.resume(welcome.packets_received);
            Outcome::Resumed { resent: self.sent.waiting(), lost, replies_lost: welcome.replies_lost }
        } else {
            let seen = mem::take(&mut self.counts).seen;
            Outcome::New { seen, lost: self.sent.restart() }
        }
    }

    /// Counts a packet of the gateway. Returns whether it is new. If not, the application must not get it.
    pub(crate) fn receive(&mut self, header: Header) -> bool {
        self.counts.take(header)
    }

    /// The next packet to write to the present connection, with the newest acknowledgement.
    pub(crate) fn next_packet(&self) -> Option<Packet> {
        let mut packet = self.sent.unwritten()?.clone();
        if let Some(ack) = self.counts.ack() {
            packet.header.flags |= FLAG_ACK;
            packet.header.status = ack;
        }
        Some(packet)
    }

    /// Takes note of a `Reconnect` of the gateway. Returns the time after which the client has to leave the connection.
    pub(crate) fn leave_after(&mut self, reconnect: &Reconnect) -> Duration {
        // An URL that cannot be used is as good as none: the client tries the gateway that it knows.
        if let Some(url) = self.url.moved(&reconnect.url) {
            self.url = url;
        }
        Duration::from_millis(u64::try_from(reconnect.after_ms).unwrap_or(0)).min(MAX_WAIT)
    }

    /// Returns the delay after which the client connects when it has left the connection because of a `Reconnect`.
    /// `lived` is the time since the welcome.
    pub(crate) fn left(&mut self, lived: Duration) -> Delay {
        self.is_welcome = false;
        self.sent.end();
        let delay = self.backoff(Duration::ZERO, lived);
        // The gateway has chosen the moment. It only must not be able to make the client turn in a circle.
        if lived >= LIVED { Delay::default() } else { delay }
    }

    /// Decides what to do after the end of a connection or of an attempt. `lived` is the time since the welcome, or zero
    /// if there was none.
    pub(crate) fn end(&mut self, end: End, lived: Duration) -> Decision {
        // If there has never been a gateway, the application has to know at once.
        if !self.has_begun {
            return Decision::Stop;
        }
        self.sent.end();
        if end == End::Closed(Some(1009)) {
            // Probably one of the packets was too large. It would be too large again.
            self.sent.give_up();
        }
        let is_attempt = !std::mem::take(&mut self.is_welcome);
        if is_attempt {
            self.failures_here += 1;
            self.without_welcome += u32::from(end.is_after_upgrade());
        }
        let verdict = Verdict::of(end);
        let is_no_gateway =
            self.without_welcome >= MAX_WITHOUT_WELCOME || end.is_refusal() && verdict == Verdict::Never;
        let is_hopeless_here = is_no_gateway || self.failures_here >= MAX_FAILURES_ELSEWHERE;
        match verdict {
            Verdict::RenewToken => Decision::RenewToken,
            Verdict::Never if !end.is_refusal() => Decision::Stop,
            _ if is_attempt && is_hopeless_here && self.url != self.own => {
                self.url = self.own.clone();
                (self.failures_here, self.without_welcome) = (0, 0);
                Decision::Reconnect(self.backoff(Duration::ZERO, lived))
            }
            Verdict::Again(at_least) if !is_no_gateway => Decision::Reconnect(self.backoff(at_least, lived)),
            Verdict::Again(_) | Verdict::Never => Decision::Stop,
        }
    }

    /// Exponential backoff with full jitter, on top of the least delay that was asked for.
    fn backoff(&mut self, at_least: Duration, lived: Duration) -> Delay {
        if lived >= LIVED {
            self.failures = 0;
        }
        let ceiling = BASE.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(CAP);
        self.failures = self.failures.saturating_add(1);
        Delay { at_least, at_most: at_least + ceiling }
    }
}

/// What an end alone means.
#[derive(PartialEq, Eq)]
enum Verdict {
    /// Connect again, but not before this time.
    Again(Duration),
    RenewToken,
    Never,
}

impl Verdict {
    fn of(end: End) -> Self {
        match end {
            End::Closed(Some(1009)) => Self::Again(SLOW),
            End::Closed(Some(4001)) => Self::RenewToken,
            End::Closed(Some(1000 | 1002 | 1003 | 1007 | 1008 | 3000..=4999)) | End::NoGateway => Self::Never,
            End::Refused { status: 429 | 500..=599, retry_after } => Self::Again(retry_after.min(MAX_WAIT)),
            End::Refused { .. } => Self::Never,
            End::Closed(_) | End::Lost | End::Silent | End::Unreachable | End::NoWelcome => Self::Again(Duration::ZERO),
        }
    }
}

/// Whether a text can stand in a URL as it is. No gateway makes a token that cannot.
fn is_token(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=MAX_TOKEN_BYTES).contains(&text.len()) && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests;
