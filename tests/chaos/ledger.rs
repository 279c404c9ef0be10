//! What became of each message. Every rule asks for evidence about this very message or its session; what has none is unknown.

use crate::{
    journal::{At, Book, End, Kind, Message, Push, Session},
    messages::Id,
};
use std::{collections::BTreeMap, fmt, time::Duration};

/// How long before the end of its session a message may have been sent and still be under way: a publish may wait for a bus that is
/// away for the grace period, and then for the bus's timeout.
const UNDER_WAY: Duration = Duration::from_secs(15);
/// How exact the times of two observers are.
const CLOCK: Duration = Duration::from_secs(1);

const GIVEN_UP: &str = "Redis meant it for a connection that had been given up";

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Account {
    Delivered,
    /// Its sender got this status and this text.
    Refused(u16, String),
    /// The gateway lost it and counted that.
    Dropped(&'static str),
    /// No gateway ever had it.
    NotTaken(&'static str),
    /// It was under way when its session ended.
    Ended(String),
    /// Nothing accounts for it.
    Unknown(&'static str),
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delivered => write!(f, "delivered"),
            Self::Refused(status, text) => write!(f, "refused, {status}: {text}"),
            Self::Dropped(reason) => write!(f, "dropped and counted: {reason}"),
            Self::NotTaken(why) => write!(f, "never taken by the gateway: {why}"),
            Self::Ended(how) => write!(f, "under way when its session ended: {how}"),
            Self::Unknown(why) => write!(f, "UNKNOWN: {why}"),
        }
    }
}

/// A delivery that is not here is counted in this series.
const NOT_HERE: &str = "gateway_deliveries_total{outcome=\"not_here\"}";

/// What counts a message of the bus that chat did not decide on: the series, and the name that the ledger gives it.
const COUNTED: [(&str, &str); 7] = [
    ("gateway_messages_dropped_total{reason=\"no_subscriber\"}", "no_subscriber"),
    ("gateway_messages_dropped_total{reason=\"plugin_quarantined\"}", "plugin_quarantined"),
    ("gateway_messages_dropped_total{reason=\"plugin_busy\"}", "plugin_busy"),
    ("gateway_plugin_calls_total{plugin=\"chat\",outcome=\"trap\"}", "a call of chat that trapped"),
    ("gateway_plugin_calls_total{plugin=\"chat\",outcome=\"deadline\"}", "a call of chat over its deadline"),
    ("gateway_plugin_calls_total{plugin=\"chat\",outcome=\"memory\"}", "a call of chat over its memory"),
    ("gateway_plugin_calls_total{plugin=\"chat\",outcome=\"invalid\"}", "an answer of chat that is invalid"),
];

/// Other plugins are quarantined as well, so a drop for that reason is evidence only while this is 1.
const CHAT_QUARANTINED: &str = "gateway_plugin_quarantined{plugin=\"chat\"}";

/// The accounts of all messages.
pub(crate) struct Ledger {
    pub(crate) accounts: BTreeMap<Id, Account>,
    pub(crate) doubled: Vec<Id>,
}

impl Ledger {
    /// Settles a book.
    pub(crate) fn of(book: &Book) -> Self {
        let mut evidence = Evidence::of(book);
        let accounts = book.messages.iter().map(|(id, message)| (*id, evidence.settle(message))).collect();
        let doubled = book.messages.iter().filter(|(_, message)| is_doubled(message)).map(|(id, _)| *id).collect();
        Self { accounts, doubled }
    }

    /// The messages that nothing accounts for.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = (Id, &'static str)> {
        self.accounts.iter().filter_map(|(id, account)| match account {
            Account::Unknown(why) => Some((*id, *why)),
            _ => None,
        })
    }
}

fn is_doubled(message: &Message) -> bool {
    let mut arrivals = message.arrivals.clone();
    arrivals.sort_unstable();
    arrivals.windows(2).any(|pair| pair[0] == pair[1])
}

/// A book, and what of its evidence is not used up. A counter that moved by one accounts for one message.
struct Evidence<'a> {
    book: &'a Book,
    /// By session, the last of its heartbeats that was answered, and the last of its pushes that arrived.
    last_answered: Vec<At>,
    last_pushed: Vec<u64>,
    /// By session, the delivery numbers that never came.
    gaps: Vec<usize>,
    /// By sample, how far each series moved.
    moved: Vec<BTreeMap<String, u64>>,
    not_here: u64,
}

impl<'a> Evidence<'a> {
    fn of(book: &'a Book) -> Self {
        let sessions = book.sessions.len();
        let (mut last_answered, mut last_pushed) = (vec![Duration::ZERO; sessions], vec![0; sessions]);
        for message in book.messages.values() {
            let answered = !message.arrivals.is_empty() || message.refused.is_some();
            if let (Kind::Heartbeat, true, Some(session)) = (message.kind, answered, message.session) {
                last_answered[session] = last_answered[session].max(message.sent);
            }
            if let (Kind::Response | Kind::Broadcast, Some(push)) = (message.kind, message.pushed) {
                message.arrivals.iter().for_each(|at| last_pushed[*at] = last_pushed[*at].max(push.order));
            }
        }
        let moved: Vec<_> = book.samples.iter().map(|sample| sample.moved.clone()).collect();
        let not_here = moved.iter().filter_map(|moved| moved.get(NOT_HERE)).sum();
        let gaps = book.sessions.iter().map(|session| session.missing_numbers).collect();
        Self { book, last_answered, last_pushed, gaps, moved, not_here }
    }

    fn settle(&mut self, message: &Message) -> Account {
        match message.kind {
            Kind::Heartbeat => self.heartbeat(message),
            Kind::Request => self.request(message),
            Kind::Response | Kind::Broadcast => self.push(message),
        }
    }

    fn heartbeat(&self, message: &Message) -> Account {
        match (&message.refused, message.arrivals.is_empty()) {
            (None, false) => return Account::Delivered,
            (Some((0, _)), _) => return Account::Unknown("it was answered with something else"),
            (Some((status, text)), true) => return Account::Refused(*status, text.clone()),
            (Some(_), false) => return Account::Unknown("it was answered and refused"),
            (None, true) => {}
        }
        let session = message.session.unwrap();
        if self.last_answered[session] > message.sent {
            return Account::Unknown("a later heartbeat was answered, and this one was not");
        }
        match &self.book.sessions[session].ended {
            Some((_, End::Closed)) => Account::Unknown("the player closed its session, and the answers were dropped"),
            _ => self.under_way(session, message.sent).unwrap_or(Account::Unknown("it was never answered")),
        }
    }

    fn request(&self, message: &Message) -> Account {
        let arrived = !message.arrivals.is_empty();
        match &message.refused {
            Some((0, _)) => return Account::Unknown("it was answered with a reply that nobody expects"),
            // Redis may have taken it, as the sender was told.
            Some((status, text)) if !arrived || text.contains("may or may not") => {
                return Account::Refused(*status, text.clone());
            }
            Some(_) => return Account::Unknown("it was refused, and reached the backend all the same"),
            None if arrived => return Account::Delivered,
            None => {}
        }
        if let Some((at, 1..)) = message.published
            && self.killed_about(at)
        {
            return Account::NotTaken("Redis counted its subscribers and was killed");
        }
        let why = match message.published {
            Some((_, 0)) => "nobody heard it, and the sender was not refused",
            Some(_) => "Redis took it, and the backend never heard it",
            None => "neither published nor refused",
        };
        self.under_way(message.session.unwrap(), message.sent).unwrap_or(Account::Unknown(why))
    }

    fn push(&mut self, message: &Message) -> Account {
        if !message.arrivals.is_empty() {
            return Account::Delivered;
        }
        match (message.published, message.pushed) {
            (_, Some(push)) => self.pushed(message, push),
            (None, None) => Account::NotTaken("Redis never confirmed it to the backend"),
            (Some((_, 0)), None) if self.is_awaited(message) => Account::NotTaken("no gateway was subscribed"),
            (Some((_, 0)), None) => {
                Account::Unknown("the gateway published the request while it was not subscribed to the response")
            }
            (Some((at, _)), None) if self.killed_about(at) => {
                Account::NotTaken("Redis counted its subscribers and was killed")
            }
            (Some((at, _)), None) if self.counted_a_connection_given_up(at) => Account::NotTaken(GIVEN_UP),
            (Some(_), None) => Account::Unknown("Redis counted the gateway as a subscriber and wrote nothing to it"),
        }
    }

    /// Whether its request, if it has one, was published when the gateway could hear the response.
    fn is_awaited(&self, message: &Message) -> bool {
        message.answers.is_none_or(|request| self.book.messages[&request].awaited)
    }

    /// A message that Redis wrote to the gateway, and that did not arrive.
    fn pushed(&mut self, message: &Message, push: Push) -> Account {
        // What was written to a connection just before the gateway gave it up may not have been read any more.
        let given_up = self.book.links[push.link].given_up;
        if !push.taken || given_up.is_some_and(|at| at.abs_diff(push.at) < CLOCK / 5) {
            return Account::NotTaken(GIVEN_UP);
        }
        if let Some(reason) = self.counted(push.at) {
            return Account::Dropped(reason);
        }
        let Some(session) = message.session.or_else(|| self.session_of(message.user, push.at)) else {
            return self.was_not_here();
        };
        if self.last_pushed[session] > push.order {
            // A later one arrived. The delivery numbers show what was dropped from the queue.
            if self.gaps[session] > 0 {
                self.gaps[session] -= 1;
                return Account::Dropped("send_queue_full, a gap in the delivery numbers");
            }
            return Account::Unknown("a later push arrived, and this one did not");
        }
        self.under_way(session, push.at).unwrap_or(Account::Unknown("its session lives, and it never arrived"))
    }

    /// The session of a user to which a push at that time had to go: one that was bound by then, or that had ended just before.
    fn session_of(&self, user: i32, at: At) -> Option<usize> {
        let fits = |session: &Session| {
            let ended = session.ended.as_ref().map(|(at, _)| *at);
            session.user == user
                && session.bound.is_some_and(|bound| bound <= at)
                && ended.is_none_or(|ended| ended + UNDER_WAY >= at)
        };
        self.book.sessions.iter().rposition(fits)
    }

    fn was_not_here(&mut self) -> Account {
        if self.not_here == 0 {
            return Account::Unknown("its user had no session, and `not_here` did not count it");
        }
        self.not_here -= 1;
        Account::Dropped("not_here")
    }

    /// The counter that moved just after a message came to the gateway, if one did.
    fn counted(&mut self, at: At) -> Option<&'static str> {
        let near = |index: &usize| {
            let sample = &self.book.samples[*index];
            sample.to >= at && sample.from <= at + CLOCK
        };
        for index in (0..self.book.samples.len()).filter(near) {
            let quarantined = self.moved[index].contains_key(CHAT_QUARANTINED);
            for (series, reason) in COUNTED {
                if reason == "plugin_quarantined" && !quarantined {
                    continue;
                }
                if let Some(left @ 1..) = self.moved[index].get_mut(series) {
                    *left -= 1;
                    return Some(reason);
                }
            }
        }
        None
    }

    /// The end of a session excuses what was under way then, if the plan wanted it or the gateway announced it.
    fn under_way(&self, session: usize, sent: At) -> Option<Account> {
        let (ended, end) = self.book.sessions[session].ended.as_ref()?;
        if sent + UNDER_WAY < *ended {
            return None;
        }
        match end {
            End::Reset => Some(Account::Ended("the plan had it reset".to_owned())),
            End::Closed => Some(Account::Ended("the plan had it closed".to_owned())),
            End::Announced(code, reason) => {
                Some(Account::Ended(format!("the gateway closed it with {code}: {reason}")))
            }
            End::Unannounced(_) => Some(Account::Unknown("its session ended without a close frame")),
        }
    }

    /// Whether Redis had not noticed by then that the gateway's subscription is gone. What it meant to write there it drops when it does.
    fn counted_a_connection_given_up(&self, at: At) -> bool {
        let gone = self.book.links.iter().filter(|link| link.subscribed);
        let mut times = gone.filter_map(|link| Some((link.given_up?, link.noticed?)));
        times.any(|(given_up, noticed)| given_up <= at + CLOCK / 5 && at <= noticed + CLOCK / 5)
    }

    fn killed_about(&self, at: At) -> bool {
        self.book.kills.iter().any(|kill| kill.abs_diff(at) < CLOCK)
    }
}
