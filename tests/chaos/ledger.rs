//! The ledger: what happened to each message. Every rule needs evidence about the message itself or about its session.
//! A message without evidence is unknown.

use crate::{
    journal::{At, End, Kind, Message, Observations, Push, Session},
    messages::Id,
};
use std::{collections::BTreeMap, fmt, time::Duration};

/// The end of a session excuses the loss of messages that were sent at most this long before the end. A publish may
/// wait for the grace period of a disconnected bus, and then for the timeout of the bus.
const MAX_IN_FLIGHT: Duration = Duration::from_secs(15);
/// The tolerance when times from two observers are compared.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

const GIVEN_UP: &str = "Redis wrote it to a connection that had already ended";

/// What happened to a message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Account {
    Delivered,
    /// The gateway refused the message: its sender received this status and this text.
    Refused(u16, String),
    /// The gateway dropped the message and counted the drop for this reason.
    Dropped(&'static str),
    /// The message was lost outside of the gateway, for this reason.
    LostElsewhere(&'static str),
    /// The message was in flight when its session ended, for this reason.
    Ended(String),
    /// There is no evidence of what happened to the message.
    Unknown(&'static str),
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delivered => write!(f, "delivered"),
            Self::Refused(status, text) => write!(f, "refused, {status}: {text}"),
            Self::Dropped(reason) => write!(f, "dropped and counted: {reason}"),
            Self::LostElsewhere(why) => write!(f, "lost outside of the gateway: {why}"),
            Self::Ended(how) => write!(f, "in flight when its session ended: {how}"),
            Self::Unknown(why) => write!(f, "UNKNOWN: {why}"),
        }
    }
}

/// The series that counts deliveries to users who have no session on this gateway.
const NOT_HERE: &str = "gateway_deliveries_total{outcome=\"not_here\"}";

/// The counters of bus messages that chat did not handle. Each entry has a series and the name of the reason in the
/// ledger.
const COUNTED: [(&str, &str); 7] = [
    ("gateway_messages_dropped_total{reason=\"no_subscriber\"}", "no_subscriber"),
    ("gateway_messages_dropped_total{reason=\"plugin_quarantined\"}", "plugin_quarantined"),
    ("gateway_messages_dropped_total{reason=\"plugin_busy\"}", "plugin_busy"),
    ("gateway_plugin_calls_total{plugin=\"chat\",outcome=\"trap\"}", "a call of chat that trapped"),
    ("gateway_plugin_calls_total{plugin=\"chat\",outcome=\"deadline\"}", "a call of chat over its deadline"),
    ("gateway_plugin_calls_total{plugin=\"chat\",outcome=\"memory\"}", "a call of chat over its memory"),
    ("gateway_plugin_calls_total{plugin=\"chat\",outcome=\"invalid\"}", "an answer of chat that is invalid"),
];

/// The gauge that is 1 while chat is quarantined. Other plugins are quarantined as well, so a drop for that reason is
/// evidence only while this gauge is 1.
const CHAT_QUARANTINED: &str = "gateway_plugin_quarantined{plugin=\"chat\"}";

/// The results for all messages.
pub(crate) struct Ledger {
    pub(crate) accounts: BTreeMap<Id, Account>,
    pub(crate) duplicates: Vec<Id>,
}

impl Ledger {
    /// Returns the ledger of a run's observations.
    pub(crate) fn of(book: &Observations) -> Self {
        let mut evidence = Evidence::of(book);
        let accounts = book.messages.iter().map(|(id, message)| (*id, evidence.settle(message))).collect();
        let duplicates = book.messages.iter().filter(|(_, message)| is_doubled(message)).map(|(id, _)| *id).collect();
        Self { accounts, duplicates }
    }

    /// Returns the messages without evidence, each with the rule that failed.
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

/// The observations of a run, and the evidence that is not used up yet. A counter that was incremented by one accounts
/// for one message.
struct Evidence<'a> {
    book: &'a Observations,
    /// For each session: when the last answered heartbeat was sent, and the order of the last push that arrived.
    last_answered: Vec<At>,
    last_pushed: Vec<u64>,
    /// For each session: how many delivery numbers never arrived.
    gaps: Vec<usize>,
    /// For each sample: how far each series was incremented, less the increments that are used up.
    moved: Vec<BTreeMap<String, u64>>,
    not_here: u64,
}

impl<'a> Evidence<'a> {
    fn of(book: &'a Observations) -> Self {
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
            (Some((0, _)), _) => return Account::Unknown("it was answered with another payload"),
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
            // Redis may have accepted the request, and the refusal says so.
            Some((status, text)) if !arrived || text.contains("may or may not") => {
                return Account::Refused(*status, text.clone());
            }
            Some(_) => return Account::Unknown("it was refused, but it reached the backend"),
            None if arrived => return Account::Delivered,
            None => {}
        }
        if let Some((at, 1..)) = message.published
            && self.killed_about(at)
        {
            return Account::LostElsewhere("Redis counted its subscribers and was killed");
        }
        let why = match message.published {
            Some((_, 0)) => "no backend was subscribed, but the sender got no refusal",
            Some(_) => "Redis accepted it, but the backend never received it",
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
            (None, None) => Account::LostElsewhere("Redis never confirmed it to the backend"),
            (Some((_, 0)), None) if self.is_awaited(message) => Account::LostElsewhere("no gateway was subscribed"),
            (Some((_, 0)), None) => {
                Account::Unknown("the gateway published the request while it was not subscribed to the response")
            }
            (Some((at, _)), None) if self.killed_about(at) => {
                Account::LostElsewhere("Redis counted its subscribers and was killed")
            }
            (Some((at, _)), None) if self.counted_a_connection_given_up(at) => Account::LostElsewhere(GIVEN_UP),
            (Some(_), None) => Account::Unknown("Redis counted the gateway as a subscriber and wrote nothing to it"),
        }
    }

    /// Returns whether the gateway could receive the response when it published the request. A message that answers no
    /// request counts as awaited.
    fn is_awaited(&self, message: &Message) -> bool {
        message.answers.is_none_or(|request| self.book.messages[&request].response_receivable)
    }

    /// Decides about a message that Redis wrote to the gateway, and that did not arrive at its session.
    fn pushed(&mut self, message: &Message, push: Push) -> Account {
        // The gateway may not have read a message that was written just before it closed the connection.
        let ended_at = self.book.links[push.link].ended_at;
        if !push.taken || ended_at.is_some_and(|at| at.abs_diff(push.at) < CLOCK_TOLERANCE / 5) {
            return Account::LostElsewhere(GIVEN_UP);
        }
        if let Some(reason) = self.counted(push.at) {
            return Account::Dropped(reason);
        }
        let Some(session) = message.session.or_else(|| self.session_of(message.user, push.at)) else {
            return self.was_not_here();
        };
        if self.last_pushed[session] > push.order {
            // A later push arrived. A gap in the delivery numbers shows that a push was dropped from the send queue.
            if self.gaps[session] > 0 {
                self.gaps[session] -= 1;
                return Account::Dropped("send_queue_full, a gap in the delivery numbers");
            }
            return Account::Unknown("a later push arrived, and this one did not");
        }
        self.under_way(session, push.at).unwrap_or(Account::Unknown("its session is open, but it never arrived"))
    }

    /// Returns the session that a push to this user at this time had to reach. The session was bound by then, and it
    /// was still open or had ended shortly before.
    fn session_of(&self, user: i32, at: At) -> Option<usize> {
        let fits = |session: &Session| {
            let ended = session.ended.as_ref().map(|(at, _)| *at);
            session.user == user
                && session.bound.is_some_and(|bound| bound <= at)
                && ended.is_none_or(|ended| ended + MAX_IN_FLIGHT >= at)
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

    /// Finds a counter that was incremented just after this time, uses up one increment, and returns the reason that it
    /// counts.
    fn counted(&mut self, at: At) -> Option<&'static str> {
        let near = |index: &usize| {
            let sample = &self.book.samples[*index];
            sample.to >= at && sample.from <= at + CLOCK_TOLERANCE
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

    /// Excuses the loss of a message that was in flight when its session ended, if the plan ended the session or the
    /// gateway announced the end.
    fn under_way(&self, session: usize, sent: At) -> Option<Account> {
        let (ended, end) = self.book.sessions[session].ended.as_ref()?;
        if sent + MAX_IN_FLIGHT < *ended {
            return None;
        }
        match end {
            End::Reset => Some(Account::Ended("the plan reset the connection".to_owned())),
            End::Closed => Some(Account::Ended("the player closed it as planned".to_owned())),
            End::Announced(code, reason) => {
                Some(Account::Ended(format!("the gateway closed it with {code}: {reason}")))
            }
            End::Unannounced(_) => Some(Account::Unknown("its session ended without a close frame")),
        }
    }

    /// Returns whether Redis, at this time, still counted a subscription on a connection that had already ended. When
    /// Redis notices the end, it discards the messages for that connection.
    fn counted_a_connection_given_up(&self, at: At) -> bool {
        let gone = self.book.links.iter().filter(|link| link.subscribed);
        let mut times = gone.filter_map(|link| Some((link.ended_at?, link.end_noticed_at?)));
        times.any(|(ended_at, end_noticed_at)| {
            ended_at <= at + CLOCK_TOLERANCE / 5 && at <= end_noticed_at + CLOCK_TOLERANCE / 5
        })
    }

    fn killed_about(&self, at: At) -> bool {
        self.book.kills.iter().any(|kill| kill.abs_diff(at) < CLOCK_TOLERANCE)
    }
}
