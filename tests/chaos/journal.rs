//! The record of what was observed of each message, session and connection to Redis. It holds facts only; the ledger
//! judges them.

use crate::messages::Id;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// A point in time, measured from the start of the run.
pub(crate) type At = Duration;

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A packet on the system route, which the gateway echoes.
    Heartbeat,
    /// A chat request, which the backend receives.
    Request,
    /// The backend's response to the session of a request.
    Response,
    /// The backend's message to a user.
    Broadcast,
}

/// The observations of one message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    /// When the message was sent.
    pub(crate) sent: At,
    /// The session that sent the message or that the message is for. A broadcast has none.
    pub(crate) session: Option<usize>,
    /// The user of that session, or the user that a broadcast is for.
    pub(crate) user: i32,
    /// The status and the text of the reply that refuses the message.
    pub(crate) refused: Option<(u16, String)>,
    /// Where the message arrived: at a session, or at the [`BACKEND`].
    pub(crate) arrivals: Vec<usize>,
    /// When Redis answered the PUBLISH, and for how many subscribers.
    pub(crate) published: Option<(At, i64)>,
    /// How Redis wrote the message to the gateway.
    pub(crate) pushed: Option<Push>,
    /// The request that a response answers.
    pub(crate) answers: Option<Id>,
    /// For a request: whether the gateway could receive the response when it published the request.
    pub(crate) response_receivable: bool,
}

impl Message {
    pub(crate) fn new(kind: Kind, sent: At, session: Option<usize>, user: i32) -> Self {
        let (refused, arrivals, published, pushed, answers) = (None, Vec::new(), None, None, None);
        Self { kind, sent, session, user, refused, arrivals, published, pushed, answers, response_receivable: false }
    }
}

/// The place of arrival of a request, in [`Message::arrivals`].
pub(crate) const BACKEND: usize = usize::MAX;

/// A message that Redis wrote to a connection of the gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Push {
    pub(crate) at: At,
    /// The position among all pushes of the run.
    pub(crate) order: u64,
    /// The index of the connection in [`Observations::links`].
    pub(crate) link: usize,
    /// Whether the gateway's end of the connection was still open.
    pub(crate) taken: bool,
}

/// A session of a counting player.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) user: i32,
    /// When it became known that the session belongs to its user.
    pub(crate) bound: Option<At>,
    pub(crate) ended: Option<(At, End)>,
    /// The last delivery number that arrived.
    pub(crate) last_number: u32,
    /// How many delivery numbers before the last one never arrived.
    pub(crate) missing_numbers: usize,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The plan reset the connection.
    Reset,
    /// The plan had the player close the session, and the gateway answered with its close frame.
    Closed,
    /// The gateway sent a close frame with this code and reason.
    Announced(u16, String),
    /// The connection ended without a close frame, with this error.
    Unannounced(String),
}

/// A connection of the gateway to Redis.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    pub(crate) opened: At,
    /// Whether the gateway ever subscribed to the broadcast topic on this connection.
    pub(crate) subscribed: bool,
    /// When the connection ended, if Redis did not end it.
    pub(crate) ended_at: Option<At>,
    /// When Redis had noticed that end.
    pub(crate) end_noticed_at: Option<At>,
}

/// The increments of the gateway's counters between two scrapes.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) from: At,
    pub(crate) to: At,
    /// The series that were incremented, as `name{labels}`, and by how much.
    pub(crate) moved: BTreeMap<String, u64>,
}

/// All observations of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observations {
    pub(crate) messages: BTreeMap<Id, Message>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) links: Vec<Link>,
    /// When Redis was killed.
    pub(crate) kills: Vec<At>,
    pub(crate) samples: Vec<Sample>,
    /// What the plan did, and when each event began.
    pub(crate) events: Vec<(At, String)>,
    /// How many counted messages Redis wrote to the gateway.
    pub(crate) pushes: u64,
    /// The connection on which the gateway is subscribed to the broadcast topic.
    pub(crate) subscriber: Option<usize>,
    /// The time since which no connection is subscribed, if none is.
    pub(crate) unsubscribed_since: At,
}

/// How long a gateway may take to learn that its subscription has ended.
const UNSUBSCRIBE_NOTICE_TIME: Duration = Duration::from_secs(1);

impl Observations {
    /// Returns whether the gateway may publish a request on this connection, because the gateway expects that it can
    /// receive the response. If the connection was opened while there was no subscription, the gateway must wait until
    /// a subscription is confirmed.
    fn can_receive_response(&self, link: usize, now: At) -> bool {
        self.subscriber.is_some()
            || (self.links[link].opened < self.unsubscribed_since
                && now < self.unsubscribed_since + UNSUBSCRIBE_NOTICE_TIME)
    }
}

/// The observations of a run, shared by all observers.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    began: Instant,
    book: Arc<Mutex<Observations>>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), book: Arc::default() }
    }

    pub(crate) fn now(&self) -> At {
        self.began.elapsed()
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Observations> {
        self.book.lock().unwrap()
    }

    pub(crate) fn event(&self, what: impl Into<String>) {
        let now = self.now();
        self.book().events.push((now, what.into()));
    }

    /// Records a message that is about to be sent.
    pub(crate) fn send(&self, kind: Kind, session: Option<usize>, user: i32) -> Id {
        let sent = self.now();
        let mut book = self.book();
        let id = book.messages.len() as Id + 1;
        book.messages.insert(id, Message::new(kind, sent, session, user));
        id
    }

    /// Records a response that is about to be sent to this request.
    pub(crate) fn respond(&self, request: Id) -> Id {
        let (session, user) = {
            let book = self.book();
            let request = &book.messages[&request];
            (request.session, request.user)
        };
        let id = self.send(Kind::Response, session, user);
        self.update(id, |response, _| response.answers = Some(request));
        id
    }

    /// Records that the gateway wrote the PUBLISH of a request to Redis.
    pub(crate) fn publishing(&self, id: Id, link: usize) {
        let response_receivable = self.book().can_receive_response(link, self.now());
        self.update(id, |message, _| message.response_receivable = response_receivable);
    }

    pub(crate) fn link_opened(&self) -> usize {
        let opened = self.now();
        let mut book = self.book();
        book.links.push(Link { opened, ..Link::default() });
        book.links.len() - 1
    }

    /// Records the end of a connection. `given_up` says that Redis did not end it.
    pub(crate) fn link_ended(&self, link: usize, ended_at: bool) {
        if ended_at {
            let now = self.now();
            self.book().links[link].ended_at = Some(now);
        }
        self.unsubscribed(link);
    }

    /// Records that Redis closed its side of a connection that had been given up.
    pub(crate) fn link_noticed(&self, link: usize) {
        let now = self.now();
        self.book().links[link].end_noticed_at = Some(now);
    }

    /// Records that Redis confirmed the gateway's subscription.
    pub(crate) fn subscribed(&self, link: usize) {
        let mut book = self.book();
        book.subscriber = Some(link);
        book.links[link].subscribed = true;
    }

    pub(crate) fn unsubscribed(&self, link: usize) {
        let now = self.now();
        let mut book = self.book();
        if book.subscriber == Some(link) {
            (book.subscriber, book.unsubscribed_since) = (None, now);
        }
    }

    pub(crate) fn refused(&self, id: Id, status: u16, text: &str) {
        self.update(id, |message, _| message.refused = Some((status, text.to_owned())));
    }

    pub(crate) fn published(&self, id: Id, receivers: i64) {
        self.update(id, |message, now| message.published = Some((now, receivers)));
    }

    pub(crate) fn pushed(&self, id: Id, link: usize, taken: bool) {
        let order = {
            let mut book = self.book();
            book.pushes += 1;
            book.pushes
        };
        self.update(id, |message, at| message.pushed = Some(Push { at, order, link, taken }));
    }

    /// Records that the backend received a request. From now on, the request's session is known to belong to its user.
    pub(crate) fn heard(&self, id: Id) {
        self.update(id, |message, _| message.arrivals.push(BACKEND));
        let session = self.book().messages.get(&id).and_then(|message| message.session);
        session.into_iter().for_each(|session| self.bound(session));
    }

    /// Records that a heartbeat was echoed.
    pub(crate) fn echoed(&self, id: Id, session: usize) {
        self.update(id, |message, _| message.arrivals.push(session));
    }

    /// Records that a push arrived at a session under this delivery number. `id` is `None` if the push is not a counted
    /// message.
    pub(crate) fn delivered(&self, id: Option<Id>, session: usize, number: u32) {
        {
            let mut book = self.book();
            let session = &mut book.sessions[session];
            session.missing_numbers += number.saturating_sub(session.last_number + 1) as usize;
            session.last_number = number;
        }
        if let Some(id) = id {
            self.update(id, |message, _| message.arrivals.push(session));
            self.bound(session);
        }
    }

    pub(crate) fn opened(&self, user: i32) -> usize {
        let mut book = self.book();
        book.sessions.push(Session { user, bound: None, ended: None, last_number: 0, missing_numbers: 0 });
        book.sessions.len() - 1
    }

    pub(crate) fn ended(&self, session: usize, end: End) {
        let now = self.now();
        self.book().sessions[session].ended = Some((now, end));
    }

    fn bound(&self, session: usize) {
        let now = self.now();
        self.book().sessions[session].bound.get_or_insert(now);
    }

    fn update(&self, id: Id, change: impl FnOnce(&mut Message, At)) {
        let now = self.now();
        if let Some(message) = self.book().messages.get_mut(&id) {
            change(message, now);
        }
    }
}
