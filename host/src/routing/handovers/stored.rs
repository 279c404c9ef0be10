//! Sessions that wait in Redis for their clients, because their gateway has stopped and no other one had them yet.
//!
//! Any gateway of the same Redis can go on with such a session. The client gets everything that was sent before its
//! gateway stopped. It learns for how long nobody heard its messages, because what was sent in that time is lost.

use super::{
    Arrived, Handovers,
    messages::{Offer, State, Stored, Wanted},
};
use crate::delivery::{
    outbox::{self, Closing, Moving},
    session::Session,
};
use bytes::Bytes;
use gateway_proto::{Control, Gap, control::Event};
use prost::Message as _;
use std::time::Duration;
use tokio::time::{self, Instant};
use uuid::Uuid;

/// How long a gateway waits until Redis has subscribed to the topics of a session.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often it looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

impl Handovers {
    /// Returns whether sessions can wait in Redis.
    #[must_use]
    pub fn can_store(&self) -> bool {
        self.ways.load().is_some()
    }

    /// Ends a session whose client is away, and leaves it in Redis for this time. Returns why it ends, or `None` if that
    /// is not possible at the moment: the client is about to come back, or the session ends anyway.
    pub async fn store(&self, session: &Session, window: Duration) -> Option<Closing> {
        let ways = self.ways.load_full()?;
        let offer = self.parts.describe(session, 0);
        let (secret, moving) = session.outbox.store()?;
        let stored = Stored {
            secret: secret.to_vec(),
            lives_ms: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
            offer: Some(offer),
            state: Some(State::new(moving, session.packets())),
        };
        let outcome = ways.keys.set(&key(session.id), &stored.encode_to_vec(), window).await;
        self.metrics.resume.stored(outcome.is_ok());
        let Err(error) = outcome else { return Some(Closing::stored()) };
        if self.metrics.log_limits.permit("session not stored", "") {
            tracing::warn!(
                session = %session.id,
                "a session is lost, because it could not be written to Redis for its client: {error}"
            );
        }
        Some(Closing::going_away())
    }

    /// Goes on with a session that waits in Redis. Returns `None` if there is none that the client may have.
    ///
    /// # Errors
    /// Returns an outcome of `gateway_resumes_total`.
    pub(super) async fn restore(&self, wanted: &Wanted) -> Result<Option<Arrived>, &'static str> {
        let Some(ways) = self.ways.load_full() else { return Ok(None) };
        let key = key(wanted.session);
        let found = ways.keys.get(&key).await.unwrap_or_else(|error| {
            tracing::debug!(session = %wanted.session, "cannot look for a session: {error}");
            None
        });
        let Some(found) = found else { return Ok(None) };
        let Some((stored, offer, state)) = parse(&found.bytes) else { return Ok(None) };
        if !outbox::is_same(&stored.secret, &wanted.secret) {
            return Err("unknown");
        }
        // Another user's client must not even end the session.
        if wanted.checked.is_some_and(|user| user != offer.user) {
            return Err("another_user");
        }
        let packets = state.packets;
        let (moving, replies_lost): (Moving, u64) =
            state.into_moving().ok_or("unknown")?.claim(wanted.received).ok_or("missed")?;
        let mut listening = self.parts.listening();
        self.subscribed(listening.begin_all(&offer)).await?;
        // Only one of several gateways gets the value.
        let taken = ways.keys.take(&key).await.map_err(|_| "no_answer")?;
        if taken.as_deref() != Some(&found.bytes) {
            return Err("unknown");
        }
        let session = Session::new(wanted.remote, ways.limits);
        let session = if offer.is_anonymous { session.anonymous() } else { session }.moving_in(wanted.session);
        let session = self.parts.admit(session, &offer)?;
        let blind = Duration::from_millis(stored.lives_ms).saturating_sub(found.left);
        session.outbox.control(gap(blind));
        session.set_packets(packets);
        session.outbox.move_in(moving);
        Ok(Some((session, replies_lost)))
    }

    /// Waits until Redis has carried out a change of the subscriptions.
    async fn subscribed(&self, change: u64) -> Result<(), &'static str> {
        let deadline = Instant::now() + SUBSCRIBE_TIMEOUT;
        while !self.parts.bus.has_carried_out(change) {
            if Instant::now() >= deadline {
                return Err("busy");
            }
            time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Option<(Stored, Offer, State)> {
    let mut stored = Stored::decode(bytes).ok()?;
    let (offer, state) = (stored.offer.take()?, stored.state.take()?);
    Some((stored, offer, state))
}

/// Returns the key of a session.
fn key(session: Uuid) -> String {
    format!("gateway:session:{session}")
}

fn gap(blind: Duration) -> Bytes {
    let blind_ms = i64::try_from(blind.as_millis()).unwrap_or(i64::MAX);
    Control { event: Some(Event::Gap(Gap { blind_ms })) }.encode_to_vec().into()
}
