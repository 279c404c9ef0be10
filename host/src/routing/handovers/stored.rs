//! Sessions that wait in Redis for their clients, because their gateway has stopped and no other one had them yet.
//!
//! Any gateway of the same Redis can go on with such a session. The client gets everything that was sent before its
//! gateway stopped. It learns for how long nobody heard its messages, because what was sent in that time is lost.

use super::{
    Arrived, Found, Handovers, NotFetched, is_another_user,
    messages::{Offer, State, Stored, Wanted},
};
use crate::{
    bus::{Keys, Value},
    delivery::{
        outbox::{self, Closing},
        session::Session,
    },
    routing::closings::Target,
};
use bytes::Bytes;
use gateway_proto::{Control, Gap, control::Event};
use prost::Message as _;
use std::{sync::Arc, time::Duration};
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

    /// Ends a session whose client is away, and leaves it in Redis. Returns why it ends, or `None` if that is not possible
    /// at the moment: the client is about to come back, or the session ends anyway.
    pub async fn store(&self, session: &Session) -> Option<Closing> {
        let ways = self.ways.load_full()?;
        let _place = self.storing.acquire().await.ok()?;
        // From here on, the session is told of no gap.
        let blind_ms = self.parts.topics.gap_since().map_or(0, |since| milliseconds(since.elapsed()));
        let (secret, moving, unwritten) = session.outbox.store()?;
        let offer = self.parts.describe(session, 0);
        let stored = Stored {
            secret: secret.to_vec(),
            lives_ms: milliseconds(ways.window),
            offer: Some(offer),
            state: Some(State::new(moving, session.packets())),
            blind_ms,
        };
        let outcome = ways.keys.set(&key(session.id), &stored.encode_to_vec(), ways.window).await;
        self.metrics.resume.stored(outcome.is_ok());
        let Err(error) = outcome else { return Some(Closing::stored()) };
        self.metrics.dropped("session_ended", unwritten);
        if self.metrics.log_limits.permit("session not stored", "") {
            tracing::warn!(
                session = %session.id,
                "a session is lost, because it could not be written to Redis for its client: {error}"
            );
        }
        Some(Closing::going_away())
    }

    /// Ends the sessions that wait in Redis.
    ///
    /// # Errors
    /// Returns a text if Redis has not confirmed it.
    pub async fn end_stored(&self, target: Target) -> Result<(), String> {
        let Some(ways) = self.ways.load_full() else { return Ok(()) };
        let ended = match target {
            Target::Session(session) => ways.keys.take(&key(session)).await.map(|_| ()),
            // Which sessions of the user wait is not known. Those that were written before this mark have ended.
            Target::User(user) => {
                let lives = milliseconds(ways.window).to_string();
                ways.keys.set(&ended_key(user), lives.as_bytes(), ways.window).await
            }
        };
        ended.map_err(|error| error.to_string())
    }

    /// Looks for a session that waits in Redis. Returns `None` if there is none.
    ///
    /// # Errors
    /// Returns an outcome of `gateway_resumes_total` if the client may not have it.
    pub(super) async fn find_stored(&self, wanted: &Wanted) -> Result<Option<Box<Found>>, &'static str> {
        let Some(ways) = self.ways.load_full() else { return Ok(None) };
        let asked = Instant::now();
        let value = ways.keys.get(&key(wanted.session)).await.unwrap_or_else(|error| {
            tracing::debug!(session = %wanted.session, "cannot look for a session: {error}");
            None
        });
        let Some(value) = value else { return Ok(None) };
        let Some((stored, offer, state)) = parse(&value.bytes) else { return Ok(None) };
        if !outbox::is_same(&stored.secret, &wanted.secret) {
            return Err("unknown");
        }
        // Another user's client must not even end the session.
        if is_another_user(wanted.checked, offer.user, offer.is_anonymous) {
            return Err("another_user");
        }
        let (age, blind) = (age(stored.lives_ms, value.left), Duration::from_millis(stored.blind_ms));
        let packets = state.packets;
        let (moving, replies_lost) = state.into_moving().ok_or("unknown")?.claim(wanted.received).ok_or("missed")?;
        Ok(Some(Box::new(Found { bytes: value.bytes, asked, age, blind, offer, moving, replies_lost, packets })))
    }

    /// Goes on with a session that waits in Redis. It stays there if there is no room for it here.
    pub(super) async fn restore(&self, found: Found, wanted: &Wanted) -> Result<Arrived, NotFetched> {
        let Found { bytes, asked, age, blind, offer, moving, replies_lost, packets } = found;
        let ways = self.ways.load_full().ok_or("unknown")?;
        let seat = self.parts.registry.reserve(wanted.remote.ip())?;
        self.parts.has_room_for(offer.user)?;
        let mut listening = self.parts.listening();
        self.subscribed(listening.begin_all(&offer)).await?;
        // Only one of several gateways gets the value.
        let taken = ways.keys.take(&key(wanted.session)).await.map_err(|_| "no_answer")?;
        if taken != Some(bytes) {
            return Err("unknown".into());
        }
        // As late as possible, so that no order of an operator comes in between.
        if let Some(user) = offer.user
            && let Some(since) = ended_since(&ways.keys, user).await?
            && age + asked.elapsed() >= since
        {
            return Err("unknown".into());
        }
        let session = Session::new(wanted.remote, Arc::clone(&ways.limits));
        let session = if offer.is_anonymous { session.anonymous() } else { session }.moving_in(wanted.session);
        let session = self.parts.admit(seat, session, &offer)?;
        session.outbox.control(gap(blind.saturating_add(age + asked.elapsed())));
        session.set_packets(packets);
        session.outbox.move_in(moving);
        Ok((session, replies_lost))
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

/// Returns how long ago the sessions of a user have ended, if an operator has closed them.
async fn ended_since(keys: &Keys, user: i64) -> Result<Option<Duration>, &'static str> {
    let Some(Value { bytes, left }) = keys.get(&ended_key(user)).await.map_err(|_| "no_answer")? else {
        return Ok(None);
    };
    let lives_ms = str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()).ok_or("unknown")?;
    Ok(Some(age(lives_ms, left)))
}

/// Returns for how long a value has been in Redis. Both times are those of Redis, so no clocks are compared.
fn age(lives_ms: u64, left: Duration) -> Duration {
    Duration::from_millis(lives_ms).saturating_sub(left)
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

/// Returns the key of the mark that the sessions of a user have ended.
fn ended_key(user: i64) -> String {
    format!("gateway:session:ended:{user}")
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn gap(blind: Duration) -> Bytes {
    let blind_ms = i64::try_from(blind.as_millis()).unwrap_or(i64::MAX);
    Control { event: Some(Event::Gap(Gap { blind_ms })) }.encode_to_vec().into()
}
