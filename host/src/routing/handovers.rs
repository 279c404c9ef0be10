//! Sessions whose clients come back at another gateway.
//!
//! The bus passes messages on in one order, which is the same for every gateway that hears them. So one message, the
//! mark, cuts what a session gets in two: the old gateway queues what comes before it, and the new one what comes after
//! it. Nothing is lost and nothing is doubled, although both listen to the same topics for a moment.
//!
//! ```text
//! new ──want──► old      the client's secret and what it has received
//! new ◄──offer── old     what the session is; from here on, the client has no other way to claim it
//! new: listens to the topics of the session, and to the topic of the old gateway
//! new ──mark──► both     published when Redis has carried out these subscriptions
//! old: ends the session here     new: begins the session
//! new ◄──state── old     what waits for the client
//! ```
//!
//! If a step fails or takes too long, the client gets a new session, and is told so. Each gateway forgets a hand-over
//! that does not go on, and the old one then lets the client claim its session again.

mod arriving;
mod leaving;
mod messages;
mod parts;
mod stored;

use crate::{
    bus::{ChangeNumber, Keys, Load, Share},
    delivery::{
        limits::OverLimit,
        outbox::{Limits, Moving, Secret},
        registry::{Registered, Seat},
        session::Session,
    },
    plugin::HOST_TOPIC,
    telemetry::metrics::Metrics,
};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
pub use messages::Wanted;
use messages::{Content, Envelope, Mark, Offer, Refusal, Waiting};
pub(super) use parts::Parts;
use prost::Message as _;
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    iter,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit, oneshot},
    time::{self, Instant},
};
use uuid::Uuid;

/// The time that the new gateway waits for each answer of the old one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a gateway looks for a session that the old one may be about to leave in Redis, if the old one cannot be asked.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often it looks.
const STORE_INTERVAL: Duration = Duration::from_millis(50);

/// The maximum number of hand-overs at the same time, in each direction.
const MAX_HANDOVERS: usize = 10_000;

/// Why the old gateway does not hand a session over: outcomes of `gateway_resumes_total`.
const REFUSALS: [&str; 5] = ["unknown", "another_user", "missed", "busy", STORING];

/// The refusal of a gateway that is about to leave the session in Redis. It is no outcome, because the session is there
/// a moment later.
const STORING: &str = "storing";

/// How many sessions are written to Redis at the same time. The others can be handed over until it is their turn, and
/// their messages are in memory once.
const MAX_STORING: usize = 256;

/// A session that has come from another gateway, and the number of replies that cannot be sent again.
pub type Arrived = (Registered, u64);

/// Why a client does not get its session from another gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFetched {
    /// An outcome of `gateway_resumes_total`. The client gets a new session.
    Lost(&'static str),
    /// This gateway has no room for the session, which stays where it is.
    NoRoom(OverLimit),
}

impl From<&'static str> for NotFetched {
    fn from(why: &'static str) -> Self {
        Self::Lost(why)
    }
}

impl From<OverLimit> for NotFetched {
    fn from(limit: OverLimit) -> Self {
        Self::NoRoom(limit)
    }
}

/// Where a session is that a client wants.
pub enum Located<'a> {
    /// It waits in Redis.
    Stored(Box<Found>),
    /// Another gateway offers it.
    Offered(Offered<'a>),
}

/// A session that waits in Redis.
pub struct Found {
    bytes: Vec<u8>,
    /// When Redis was asked for it, and for how long it had been there then.
    asked: Instant,
    age: Duration,
    /// For how long its gateway had not heard the bus before.
    blind: Duration,
    offer: Offer,
    moving: Moving,
    replies_lost: u64,
    packets: u64,
}

/// A session that another gateway offers.
pub struct Offered<'a> {
    forgetting: Forgetting<'a>,
    offer: Offer,
    seat: Seat,
}

/// The sessions that move between this gateway and others.
pub struct Handovers {
    /// The id of this gateway.
    id: Uuid,
    parts: Parts,
    metrics: Arc<Metrics>,
    /// The maximum size of a message that gateways take from the bus, in bytes.
    max_message_bytes: usize,
    /// How sessions move, or `None` if none can.
    ways: ArcSwapOption<Ways>,
    share: Share,
    leaving: Mutex<HashMap<Uuid, Leaving>>,
    /// The hand-overs for which a session is being claimed.
    claiming: Mutex<HashSet<Uuid>>,
    arriving: Mutex<HashMap<Uuid, Arriving>>,
    /// The places of sessions that another gateway has offered, [`MAX_HANDOVERS`] of them.
    places: Semaphore,
    /// The places of sessions that are being written to Redis, [`MAX_STORING`] of them.
    storing: Semaphore,
}

/// How sessions move between gateways.
pub(super) struct Ways {
    /// The limits of sessions that come here.
    pub(super) limits: Arc<Limits>,
    /// Whether one order of the bus holds all its messages. Without it, sessions move through Redis only.
    pub(super) is_ordered: bool,
    /// The values in Redis.
    pub(super) keys: Keys,
    /// How long a session waits in Redis for its client.
    pub(super) window: Duration,
}

/// A session that another gateway wants, and that this one has offered.
struct Leaving {
    session: Arc<Session>,
    secret: Secret,
    offer: Offer,
    answer: String,
}

/// A session that this gateway wants.
enum Arriving {
    /// It waits for the offer.
    Wanted(oneshot::Sender<Result<Offer, &'static str>>),
    /// It waits for the mark.
    Offered { session: Box<Session>, seat: Seat, offer: Offer, state: oneshot::Sender<Result<Arrived, &'static str>> },
    /// It waits for the state.
    Here {
        session: Registered,
        replies_lost: u64,
        /// What has come of the packets that wait for the client.
        waiting: Vec<Waiting>,
        state: oneshot::Sender<Result<Arrived, &'static str>>,
    },
}

/// What forgets a hand-over at the new gateway when it is dropped.
struct Forgetting<'a> {
    handovers: &'a Handovers,
    handover: Uuid,
    /// The topic of the old gateway, as long as it may wait for the mark. Then it is told that none comes, so that the
    /// client can claim its session there again.
    told: Option<String>,
    /// The place of the session, once it is offered.
    place: Option<SemaphorePermit<'a>>,
}

impl Drop for Forgetting<'_> {
    fn drop(&mut self) {
        let Self { handovers, handover, told, place: _ } = self;
        let begun = handovers.arriving().remove(handover);
        if let Some(Arriving::Here { session, waiting, .. }) = begun {
            handovers.lose(session, waiting.len());
        }
        if let Some(theirs) = told.take() {
            // If this is lost, the old gateway stops waiting after a while.
            let _ = handovers.publish(0, &theirs, *handover, Content::Refusal(Refusal { why: "given_up".to_owned() }));
        }
    }
}

/// Returns whether a client is not the one of a session, by the user that its token names. `checked` is `None` if no
/// tokens are checked. A client without a token may come back to a session that began without one, whatever user the
/// plugins gave it.
pub fn is_another_user(checked: Option<Option<i64>>, user: Option<i64>, is_anonymous: bool) -> bool {
    checked.is_some_and(|checked| checked != user && (checked.is_some() || !is_anonymous))
}

impl Handovers {
    pub(super) fn new(id: Uuid, parts: Parts, metrics: Arc<Metrics>, max_message_bytes: usize) -> Self {
        Self {
            id,
            parts,
            metrics,
            max_message_bytes,
            ways: ArcSwapOption::default(),
            share: Share::default(),
            leaving: Mutex::default(),
            claiming: Mutex::default(),
            arriving: Mutex::default(),
            places: Semaphore::new(MAX_HANDOVERS),
            storing: Semaphore::new(MAX_STORING),
        }
    }

    /// Returns the id of this gateway, which differs with each start.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Lets sessions move.
    pub(super) fn enable(&self, ways: Ways) {
        self.ways.store(Some(Arc::new(ways)));
    }

    /// Returns whether sessions can move while both gateways run. With streams, no message cuts all that a session gets in
    /// two, because streams are read over connections of their own.
    #[must_use]
    pub fn are_possible(&self) -> bool {
        self.is_ordered() && self.parts.topics.streams().is_empty()
    }

    /// Returns the topic of this gateway, if it has to be heard.
    pub(super) fn topic(&self) -> Option<String> {
        self.is_ordered().then(|| topic_of(self.id))
    }

    fn is_ordered(&self) -> bool {
        self.ways.load().as_ref().is_some_and(|ways| ways.is_ordered)
    }

    /// Looks for a session of another gateway. Cancel-safe: if the future is dropped, the session stays where it is.
    ///
    /// # Errors
    /// Returns a [`NotFetched`] if the client cannot have it.
    pub async fn locate(&self, wanted: &Wanted) -> Result<Located<'_>, NotFetched> {
        if let Some(found) = self.find_stored(wanted).await? {
            return Ok(Located::Stored(found));
        }
        let why = match self.ask_for(wanted).await {
            Ok(offered) => return Ok(Located::Offered(offered)),
            Err(NotFetched::Lost(why)) => why,
            Err(no_room) => return Err(no_room),
        };
        if matches!(why, "another_user" | "missed") || !self.can_store() {
            return Err(why.into());
        }
        // The old gateway may be about to store the session.
        let is_told = self.are_possible() && why != STORING;
        let wait = if is_told { 2 * STORE_INTERVAL } else { STORE_TIMEOUT };
        let why = if why == STORING { "unknown" } else { why };
        let deadline = Instant::now() + wait;
        while Instant::now() < deadline {
            time::sleep(STORE_INTERVAL).await;
            if let Some(found) = self.find_stored(wanted).await? {
                return Ok(Located::Stored(found));
            }
        }
        Err(why.into())
    }

    /// Brings a session to this gateway. Its messages wait until it has its connection. Returns it with an outcome of
    /// `gateway_resumes_total`. If the future is dropped, the session may be lost.
    ///
    /// # Errors
    /// Returns a [`NotFetched`] if the client cannot have it.
    pub async fn fetch(&self, located: Located<'_>, wanted: &Wanted) -> Result<(Arrived, &'static str), NotFetched> {
        match located {
            Located::Stored(found) => Ok((self.restore(*found, wanted).await?, "restored")),
            Located::Offered(offered) => Ok((self.take_over(offered, wanted).await?, "handed_over")),
        }
    }

    /// Handles a message on a topic of the host. `is_busy` says whether a plugin still decides on messages that came
    /// before it.
    pub(super) fn on_message(self: &Arc<Self>, topic: &str, body: &Bytes, is_busy: bool) {
        let Ok(Envelope { handover, content: Some(content) }) = Envelope::decode(body.clone()) else { return };
        let Ok(handover) = Uuid::from_slice(&handover) else { return };
        let is_for_this = topic == topic_of(self.id);
        match content {
            Content::Mark(Mark {}) if is_for_this => self.end_here(handover, is_busy),
            Content::Mark(Mark {}) => self.begin_here(handover, is_busy),
            // While this gateway waits for a mark, it hears what is for another one.
            _ if !is_for_this => {}
            Content::Want(want) => {
                // Before the next message, which may give the hand-over up.
                self.claiming().insert(handover);
                tokio::spawn(Arc::clone(self).offer(handover, want));
            }
            Content::Refusal(Refusal { why }) => {
                self.give_back(handover);
                self.refused(handover, &why);
            }
            Content::Offer(offer) => self.offered(handover, offer),
            Content::State(state) => self.complete(handover, state),
        }
    }

    fn publish(&self, after: ChangeNumber, topic: &str, handover: Uuid, content: Content) -> Result<(), &'static str> {
        self.publish_all(after, topic, handover, iter::once(content))
    }

    /// Publishes messages in their order, or none of them.
    fn publish_all(
        &self,
        after: ChangeNumber,
        topic: &str,
        handover: Uuid,
        contents: impl Iterator<Item = Content>,
    ) -> Result<(), &'static str> {
        let envelope = |content| Envelope { handover: handover.into_bytes().to_vec(), content: Some(content) };
        let bodies: Vec<_> = contents.map(|content| Bytes::from(envelope(content).encode_to_vec())).collect();
        let bytes = bodies.iter().map(|body| topic.len() + body.len()).sum();
        let permit =
            self.parts.bus.reserve(&self.share, Load { publishes: bodies.len(), bytes }).map_err(|_| "busy")?;
        permit.commit(after, bodies.into_iter().map(|body| (topic, Cow::Owned(body), None)));
        Ok(())
    }

    fn leaving(&self) -> MutexGuard<'_, HashMap<Uuid, Leaving>> {
        // No code panics in the middle of a change under this lock, so a poisoned map is consistent.
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claiming(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        // No code panics in the middle of a change under this lock, so a poisoned set is consistent.
        self.claiming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arriving(&self) -> MutexGuard<'_, HashMap<Uuid, Arriving>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the topic of a gateway.
fn topic_of(gateway: Uuid) -> String {
    format!("{HOST_TOPIC}:{gateway}")
}

#[cfg(test)]
mod tests {
    use super::is_another_user;

    #[test]
    fn a_client_without_a_token_may_have_only_a_session_that_began_without_one() {
        let (anonymous, known) = (true, false);
        for user in [None, Some(7)] {
            assert!(!is_another_user(None, user, known) && !is_another_user(None, user, anonymous));
            assert!(!is_another_user(Some(None), user, anonymous));
            assert!(is_another_user(Some(Some(8)), user, anonymous) && is_another_user(Some(Some(8)), user, known));
        }
        assert!(is_another_user(Some(None), Some(7), known));
        assert!(!is_another_user(Some(Some(7)), Some(7), known));
    }
}
