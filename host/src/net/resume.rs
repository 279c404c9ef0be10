//! Sessions that outlive their connections. A client that comes back gives its new connection to the task of its
//! session, which goes on with it.
//!
//! So nothing of a session moves when its client comes back: not what it holds, not its limits, not the packet that a
//! slow plugin still serves. A session whose client is away is a task that waits.

use crate::{
    auth::Identity,
    config,
    delivery::limits::OverLimit,
    delivery::outbox::{Closing, Received, Secret, Unclaimed},
    delivery::registry::Registry,
    delivery::session::Session,
    net::expiry::Expiry,
    net::resume_token::{Token, Wanted},
    net::socket::Socket,
    routing::gateway::Gateway,
    routing::handovers::{self, Arrived, Handovers, NotFetched},
    routing::refusal::Denied,
    telemetry::metrics::Metrics,
};
use futures_util::future::{FusedFuture, FutureExt};
use std::{
    collections::HashMap,
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often a session looks whether its client still is about to come back, after its time has passed.
const RECHECK: Duration = Duration::from_millis(100);

/// The connections of clients that come back, and the time that they have for that.
pub struct Resumes {
    window: Duration,
    registry: Arc<Registry>,
    handovers: Arc<Handovers>,
    metrics: Arc<Metrics>,
    /// Cancelled when sessions whose clients are away are left in Redis, because the gateway stops.
    leaving: CancellationToken,
    /// The connections that the tasks of the sessions have not taken yet.
    arrivals: Mutex<HashMap<Uuid, Box<Arrival>>>,
}

/// A connection of a client that has come back.
pub(super) struct Arrival {
    /// The connection.
    pub socket: Box<Socket>,
    /// The expiry of the client's token.
    pub expiry: Option<Box<Expiry>>,
    /// The number of replies that cannot be sent again.
    pub replies_lost: u64,
}

/// A session that a client wants and gets.
pub(super) enum Found {
    /// Its task waits for the connection.
    Here(Claim),
    /// It has come from another gateway and has no task yet.
    Arrived(Arrived),
    /// It is at another gateway, and stays there because this one has no room for it.
    NoRoom(OverLimit),
    /// It is at another gateway, and stays there because this one does not have its plugins yet.
    NotYet(Denied),
}

/// A session that a client has claimed. Dropping it gives the claim up.
pub struct Claim {
    resumes: Arc<Resumes>,
    /// The session.
    pub session: Arc<Session>,
    /// The secret, until the connection is there.
    secret: Option<Secret>,
    replies_lost: u64,
}

impl Resumes {
    /// Returns the sessions that may be resumed, or `None` if they end with their connections.
    #[must_use]
    pub fn new(resume: Option<config::Resume>, gateway: &Gateway) -> Option<Arc<Self>> {
        let config::Resume { window, total_bytes } = resume?;
        gateway.registry.parking.set_max_bytes(total_bytes);
        Some(Arc::new(Self {
            window,
            registry: Arc::clone(&gateway.registry),
            handovers: Arc::clone(&gateway.handovers),
            metrics: Arc::clone(&gateway.metrics),
            leaving: CancellationToken::new(),
            arrivals: Mutex::default(),
        }))
    }

    /// Returns the time that a client has to come back.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.window
    }

    /// Leaves the sessions in Redis whose clients are away, from now on. Returns false if there is no Redis.
    pub(super) fn leave(&self) -> bool {
        let can_store = self.handovers.can_store();
        if can_store {
            self.leaving.cancel();
        }
        can_store
    }

    /// Lets the client of a session claim it later. Returns the token that it needs.
    #[must_use]
    pub fn token(&self, session: &Session) -> Token {
        let secret = rand::random();
        session.outbox.admit_claims(secret);
        Token { gateway: self.handovers.id(), session: session.id, secret }
    }

    /// Returns whether the session that a client wants was not begun or resumed at this gateway.
    pub(super) fn is_elsewhere(&self, wanted: &Wanted) -> bool {
        wanted.token.as_ref().is_some_and(|token| token.gateway != self.handovers.id())
    }

    /// Finds the session that a client wants, on this gateway or on another. Returns `None` if the client gets a new
    /// session instead. `checked` says whom the client's token names, and is `None` if no tokens are checked.
    ///
    /// # Errors
    /// Returns the value of `given_up` if that comes before it is known where the session is.
    pub(super) async fn find<E>(
        self: &Arc<Self>,
        Wanted { token, received }: Wanted,
        checked: Option<Option<Identity>>,
        remote: SocketAddr,
        given_up: impl Future<Output = E>,
    ) -> Result<Option<Found>, E> {
        let checked = checked.map(|identity| identity.map(|identity| identity.user));
        let found = match token {
            None => Err("unknown"),
            Some(token) if token.gateway == self.handovers.id() => {
                self.claim(token, received, checked).map(|claim| (Found::Here(claim), "resumed"))
            }
            Some(Token { gateway, session, secret }) => {
                let wanted = handovers::Wanted { gateway, session, secret, received, checked, remote };
                let located = tokio::select! {
                    biased;
                    located = self.handovers.locate(&wanted) => located,
                    why = given_up => return Err(why),
                };
                // From here on, nothing may interrupt it, because the session could be lost on its way.
                let fetched = match located {
                    Ok(located) => self.handovers.fetch(located, &wanted).await,
                    Err(why) => Err(why),
                };
                match fetched {
                    Ok((arrived, outcome)) => Ok((Found::Arrived(arrived), outcome)),
                    Err(NotFetched::NoRoom(limit)) => Ok((Found::NoRoom(limit), "no_room")),
                    Err(NotFetched::Lost(why)) => Err(why),
                }
            }
        };
        let (found, outcome) = found.map_or_else(|why| (None, why), |(found, outcome)| (Some(found), outcome));
        self.metrics.resume.resumed(outcome);
        Ok(found)
    }

    fn claim(
        self: &Arc<Self>,
        Token { session, secret, .. }: Token,
        received: Received,
        checked: Option<Option<i64>>,
    ) -> Result<Claim, &'static str> {
        let session = self.registry.session(session).ok_or("unknown")?;
        // Another user's client must not even end the session.
        if handovers::is_another_user(checked, session.user(), session.is_anonymous()) {
            return Err("another_user");
        }
        match session.outbox.claim(&secret, received) {
            Ok(replies_lost) => Ok(Claim { resumes: Arc::clone(self), session, secret: Some(secret), replies_lost }),
            Err(Unclaimed::Unknown) => Err("unknown"),
            Err(Unclaimed::Missed) => Err("missed"),
        }
    }

    /// Parks a session whose connection broke, and waits until its client comes back over another one. A client that comes
    /// back while its session is closed still gets what waits for it, and the close code.
    ///
    /// # Errors
    /// Returns the cause if the session has to end instead, or `None` if it ends because its client is away.
    pub(super) async fn wait(
        &self,
        session: &Arc<Session>,
        gateway: &Arc<Gateway>,
    ) -> Result<Box<Arrival>, Option<&'static str>> {
        let (place, mut evicted) = self.registry.parking.enter();
        match session.outbox.park(place) {
            Ok(dropped) => gateway.count_evicted(session, dropped),
            Err(why) => {
                if let Some(closing) = why.filter(Closing::is_absence) {
                    self.metrics.resume.not_resumed(closing.cause);
                    return Err(None);
                }
                let arrival = self.last_arrival(session).await.ok_or(None)?;
                session.outbox.take_back();
                return Ok(arrival);
            }
        }
        tracing::debug!(session = %session.id, "the client is away");
        let mut deadline = Instant::now() + self.window;
        let mut is_leaving = false;
        let mut announced = pin!(announce_absence(session, gateway).fuse());
        let arrival = loop {
            let back_or_closing = poll_fn(|cx| {
                // The outbox is polled first, so that it wakes this task up if the client comes back right after it.
                let closing = session.outbox.poll_away(cx);
                self.arrivals().remove(&session.id).map_or_else(|| closing.map(Err), |arrival| Poll::Ready(Ok(arrival)))
            });
            tokio::select! {
                biased;
                outcome = back_or_closing => break match outcome {
                    Ok(arrival) => Ok(arrival),
                    // The client gets a new session if it comes back too late.
                    Err(closing) if closing.is_absence() => Err(closing),
                    Err(closing) => self.last_arrival(session).await.ok_or(closing),
                },
                () = &mut announced, if !announced.is_terminated() => {}
                // Nothing is ever sent. The sender is dropped.
                _ = &mut evicted, if !evicted.is_terminated() => {
                    if session.outbox.give_up(Closing::evicted()) {
                        break Err(Closing::evicted());
                    }
                    // The client is about to come back. If it does not, the session ends as one that is late.
                    deadline = Instant::now() + RECHECK;
                }
                () = self.leaving.cancelled(), if !is_leaving => {
                    is_leaving = true;
                    deadline = Instant::now();
                }
                () = time::sleep_until(deadline) => {
                    if is_leaving && let Some(closing) = self.handovers.store(session).await {
                        break Err(closing);
                    }
                    if session.outbox.give_up(Closing::window_passed()) {
                        break Err(Closing::window_passed());
                    }
                    deadline = Instant::now() + RECHECK;
                }
            }
        };
        match arrival {
            Ok(arrival) => {
                session.outbox.take_back();
                gateway.client_is_back(session).await;
                Ok(arrival)
            }
            Err(closing) => {
                tracing::debug!(session = %session.id, why = closing.cause, "the client did not come back");
                self.metrics.resume.not_resumed(closing.cause);
                Err((!closing.is_absence()).then_some(closing.cause))
            }
        }
    }

    /// Waits for the connection of a session that is closed, if its client is about to come back.
    async fn last_arrival(&self, session: &Session) -> Option<Box<Arrival>> {
        loop {
            if let Some(arrival) = self.arrivals().remove(&session.id) {
                return Some(arrival);
            }
            if !session.outbox.is_claimed() {
                return None;
            }
            time::sleep(RECHECK).await;
        }
    }

    /// Drops the connection of a client that came back while its session ended.
    pub fn forget(&self, session: Uuid) {
        self.arrivals().remove(&session);
    }

    fn arrivals(&self) -> MutexGuard<'_, HashMap<Uuid, Box<Arrival>>> {
        // No code panics in the middle of a change under this lock, so a poisoned map is consistent.
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells plugins that the client is away. A client that has a new connection already, when the old one breaks, is not
/// away unless it does not complete the new one.
async fn announce_absence(session: &Arc<Session>, gateway: &Arc<Gateway>) {
    while session.outbox.is_claimed() {
        time::sleep(RECHECK).await;
    }
    gateway.client_is_away(session);
}

impl Claim {
    /// Gives the connection to the task of the session.
    pub(super) fn complete(mut self, socket: Box<Socket>, expiry: Option<Box<Expiry>>, remote: SocketAddr) {
        self.secret = None;
        self.resumes.registry.relocate(&self.session, remote);
        let mut arrivals = self.resumes.arrivals();
        // The session may have ended meanwhile. Its task looks for a connection after that, under the same lock.
        if self.session.outbox.is_claimed() {
            let arrival = Arrival { socket, expiry, replies_lost: self.replies_lost };
            arrivals.insert(self.session.id, Box::new(arrival));
        }
        drop(arrivals);
        self.session.outbox.wake();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(secret) = self.secret.take() {
            self.session.outbox.unclaim(secret);
        }
    }
}
