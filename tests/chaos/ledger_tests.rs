//! Tests of the ledger's rules: for each rule, what it excuses and what it does not.

use crate::{
    journal::{At, BACKEND, End, Kind, Link, Message, Observations, Push, Sample, Session},
    ledger::{Account, Ledger},
};
use std::time::Duration;

const SENT: At = Duration::from_secs(100);
const DURING: At = Duration::from_millis(100_100);

fn message(kind: Kind) -> Message {
    Message::new(kind, SENT, (kind != Kind::Broadcast).then_some(0), 1)
}

fn pushed(kind: Kind, order: u64) -> Message {
    let push = Push { at: DURING, order, link: 0, taken: true };
    Message { published: Some((DURING, 1)), pushed: Some(push), ..message(kind) }
}

/// Returns the observations of one session of user 1, one connection to Redis, and these messages.
fn book(messages: impl IntoIterator<Item = Message>) -> Observations {
    let session = Session { user: 1, bound: Some(At::ZERO), ended: None, last_number: 0, missing_numbers: 0 };
    let messages = (1..).zip(messages).collect();
    Observations { messages, sessions: vec![session], links: vec![Link::default()], ..Observations::default() }
}

fn moved(series: &[&str]) -> Sample {
    Sample {
        from: SENT,
        to: SENT + Duration::from_secs(1),
        moved: series.iter().map(|s| ((*s).to_owned(), 1)).collect(),
    }
}

/// Returns the account of the first message.
fn account(book: &Observations) -> Account {
    Ledger::of(book).accounts[&1].clone()
}

#[track_caller]
fn is_unknown(book: &Observations) {
    assert!(matches!(account(book), Account::Unknown(_)), "{:?}", account(book));
}

#[track_caller]
fn is_excused_by_the_end(book: &Observations) {
    assert!(matches!(account(book), Account::Ended(_)), "{:?}", account(book));
}

#[track_caller]
fn is_not_taken(book: &Observations) {
    assert!(matches!(account(book), Account::LostElsewhere(_)), "{:?}", account(book));
}

fn ended(mut book: Observations, at: At, end: End) -> Observations {
    book.sessions[0].ended = Some((at, end));
    book
}

#[test]
fn messages_that_arrived_are_delivered_and_refused_messages_are_refused() {
    let arrived = |kind, at| Message { arrivals: vec![at], ..message(kind) };
    for (kind, at) in [(Kind::Heartbeat, 0), (Kind::Request, BACKEND), (Kind::Response, 0), (Kind::Broadcast, 0)] {
        assert_eq!(account(&book([arrived(kind, at)])), Account::Delivered);
    }
    for kind in [Kind::Heartbeat, Kind::Request] {
        let refused = Message { refused: Some((3, "no route".to_owned())), ..message(kind) };
        assert_eq!(account(&book([refused])), Account::Refused(3, "no route".to_owned()));
    }
}

#[test]
fn a_message_without_a_trace_is_unknown_or_was_never_confirmed_to_its_backend() {
    is_unknown(&book([message(Kind::Heartbeat)]));
    is_unknown(&book([message(Kind::Request)]));
    is_unknown(&book([pushed(Kind::Response, 1)]));
    is_unknown(&book([pushed(Kind::Broadcast, 1)]));
    is_not_taken(&book([message(Kind::Response)]));
    is_not_taken(&book([message(Kind::Broadcast)]));
}

#[test]
fn an_announced_end_of_a_session_excuses_messages_in_flight() {
    let late = SENT + Duration::from_secs(60);
    for message in [message(Kind::Heartbeat), message(Kind::Request), pushed(Kind::Response, 1)] {
        is_excused_by_the_end(&ended(book([message.clone()]), DURING, End::Reset));
        is_excused_by_the_end(&ended(book([message.clone()]), DURING, End::Announced(1001, "idle".to_owned())));
        is_unknown(&ended(book([message.clone()]), DURING, End::Unannounced("gone".to_owned())));
        is_unknown(&ended(book([message]), late, End::Reset));
    }
    is_unknown(&ended(book([message(Kind::Heartbeat)]), DURING, End::Closed));
    is_excused_by_the_end(&ended(book([message(Kind::Request)]), DURING, End::Closed));
}

#[test]
fn a_message_that_a_later_one_overtook_is_unknown_even_if_its_session_ended() {
    let later = Message { sent: DURING, arrivals: vec![0], ..message(Kind::Heartbeat) };
    is_unknown(&ended(book([message(Kind::Heartbeat), later]), DURING, End::Reset));
    let later = Message { arrivals: vec![0], ..pushed(Kind::Broadcast, 2) };
    is_unknown(&ended(book([pushed(Kind::Response, 1), later]), DURING, End::Reset));
}

#[test]
fn a_refused_request_may_arrive_only_if_the_refusal_says_so() {
    let refused = |text: &str| {
        let refused = Some((5, text.to_owned()));
        book([Message { refused, arrivals: vec![BACKEND], ..message(Kind::Request) }])
    };
    is_unknown(&refused("the bus is not connected"));
    assert!(matches!(account(&refused("it may or may not have been taken")), Account::Refused(5, _)));
}

#[test]
fn messages_that_redis_accepted_are_excused_only_if_redis_was_killed() {
    for kind in [Kind::Request, Kind::Response, Kind::Broadcast] {
        let taken = book([Message { published: Some((DURING, 1)), ..message(kind) }]);
        is_unknown(&taken);
        is_not_taken(&Observations { kills: vec![DURING], ..taken.clone() });
        is_unknown(&Observations { kills: vec![DURING + Duration::from_secs(2)], ..taken });
    }
    let unheard = |kind| book([Message { published: Some((DURING, 0)), ..message(kind) }]);
    is_unknown(&unheard(Kind::Request));
    is_not_taken(&unheard(Kind::Response));
}

#[test]
fn a_response_without_subscribers_is_unknown_if_the_gateway_published_the_request_too_early() {
    let response = Message { published: Some((DURING, 0)), answers: Some(2), ..message(Kind::Response) };
    let request = Message { arrivals: vec![BACKEND], ..message(Kind::Request) };
    is_unknown(&book([response.clone(), request.clone()]));
    is_not_taken(&book([response, Message { response_receivable: true, ..request }]));
}

#[test]
fn a_gap_in_the_delivery_numbers_accounts_for_one_push() {
    let last = Message { arrivals: vec![0], ..pushed(Kind::Broadcast, 3) };
    let mut book = book([pushed(Kind::Broadcast, 1), pushed(Kind::Broadcast, 2), last]);
    book.sessions[0].missing_numbers = 1;
    let accounts = Ledger::of(&book).accounts;
    assert!(matches!(accounts[&1], Account::Dropped(_)));
    assert!(matches!(accounts[&2], Account::Unknown(_)));
}

#[test]
fn a_push_to_a_connection_that_had_ended_is_not_taken() {
    let mut lost = pushed(Kind::Response, 1);
    lost.pushed = lost.pushed.map(|push| Push { taken: false, ..push });
    is_not_taken(&book([lost]));
    let ended_at = |at| Observations {
        links: vec![Link { ended_at: Some(at), ..Link::default() }],
        ..book([pushed(Kind::Response, 1)])
    };
    is_not_taken(&ended_at(DURING + Duration::from_millis(50)));
    is_unknown(&ended_at(DURING + Duration::from_secs(1)));
}

#[test]
fn a_subscription_that_had_ended_excuses_messages_until_redis_notices() {
    let counted = Message { published: Some((DURING, 1)), ..message(Kind::Broadcast) };
    let gone = |subscribed, end_noticed_at| {
        let link = Link { subscribed, ended_at: Some(SENT), end_noticed_at: Some(end_noticed_at), ..Link::default() };
        Observations { links: vec![link], ..book([counted.clone()]) }
    };
    is_not_taken(&gone(true, DURING));
    is_unknown(&gone(false, DURING));
    is_unknown(&gone(true, DURING - Duration::from_secs(1)));
}

#[test]
fn a_counter_accounts_for_as_many_messages_as_it_moved() {
    let not_here = "gateway_deliveries_total{outcome=\"not_here\"}";
    let absent = |user| Message { user, ..pushed(Kind::Broadcast, 1) };
    is_unknown(&book([absent(2)]));
    let counted = Observations { samples: vec![moved(&[not_here])], ..book([absent(2), absent(3)]) };
    let accounts = Ledger::of(&counted).accounts;
    assert_eq!(accounts[&1], Account::Dropped("not_here"));
    assert!(matches!(accounts[&2], Account::Unknown(_)));
}

#[test]
fn a_quarantine_drop_is_evidence_only_while_chat_is_quarantined() {
    let dropped = "gateway_messages_dropped_total{reason=\"plugin_quarantined\"}";
    let with = |series: &[&str]| Observations { samples: vec![moved(series)], ..book([pushed(Kind::Response, 1)]) };
    is_unknown(&with(&[dropped]));
    let chats = with(&[dropped, "gateway_plugin_quarantined{plugin=\"chat\"}"]);
    assert_eq!(account(&chats), Account::Dropped("plugin_quarantined"));
    let mut late = chats;
    late.samples[0].from = DURING + Duration::from_secs(2);
    late.samples[0].to = DURING + Duration::from_secs(3);
    is_unknown(&late);
}

#[test]
fn a_message_that_arrives_twice_at_one_session_is_a_duplicate() {
    let arrived = |arrivals| book([Message { arrivals, ..pushed(Kind::Broadcast, 1) }]);
    assert_eq!(Ledger::of(&arrived(vec![0, 0])).duplicates, [1]);
    let mut both = arrived(vec![0, 1]);
    both.sessions.push(both.sessions[0].clone());
    assert!(Ledger::of(&both).duplicates.is_empty());
}
