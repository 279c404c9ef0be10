use super::{Harness, Push};
use crate::{
    Absence, Action, Admission, Answer, Arrival, Closing, Connection, Delivery, Denial, Departure, Hearing, Keep,
    Metric, NoConfig, Packet, Plugin, Policy, Presence, Rejection, SessionId, Sessions, Settings, Target, Timers,
    attributes, export, state,
};
use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

const ROUTE: u8 = 0x20;
const SECOND: Duration = Duration::from_secs(1);

std::thread_local! {
    /// The actions that the next call returns.
    static NEXT: RefCell<Vec<Action>> = const { RefCell::new(Vec::new()) };
    /// What the plugin was called with.
    static CALLS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// The rejection that the next call returns instead of actions.
    static REJECTION: RefCell<Option<Rejection>> = const { RefCell::new(None) };
    /// What the next `on_connect` returns.
    static ANSWER: RefCell<Option<Result<Admission, Denial>>> = const { RefCell::new(None) };
}

fn next(call: String) -> Vec<Action> {
    CALLS.with_borrow_mut(|calls| calls.push(call));
    NEXT.take()
}

/// A plugin that returns the actions of the test.
struct Scripted;

impl Plugin for Scripted {
    const NAME: &str = "scripted";
    const ROUTES: &[u8] = &[ROUTE];
    const METRICS: &[Metric] = &[Metric::counter("kills", "Kills."), Metric::gauge("rooms", "Rooms.")];
    const STATE_FORMAT: u32 = 3;
    type Config = NoConfig;

    fn configure(_: Settings<NoConfig>) -> Result<Self, String> {
        Ok(Self)
    }

    fn topics(&self) -> Vec<String> {
        vec!["news".to_owned()]
    }
}

impl Policy for Scripted {
    fn on_packet(&mut self, packet: &Packet, _: &[u8]) -> Result<Vec<Action>, Rejection> {
        if let Some(rejection) = REJECTION.take() {
            return Err(rejection);
        }
        let name = attributes::get(packet.session, "name").unwrap_or_default();
        Ok(next(format!("packet {} {:?} {} {name}", packet.seq, packet.user, packet.tag)))
    }
}

impl Hearing for Scripted {
    fn on_message(&mut self, topic: &str, _: &[u8], now: u64) -> Result<Vec<Action>, Rejection> {
        Ok(next(format!("message {topic} {now}")))
    }
}

impl Sessions for Scripted {
    fn on_connect(&mut self, connection: &Connection) -> Result<Admission, Denial> {
        if let Some(answer) = ANSWER.take() {
            return answer;
        }
        let name = connection.query.clone();
        if name.is_empty() {
            return Err(Denial::new(403, "no name"));
        }
        let actions = next(format!("connect {}", connection.remote));
        Ok(Admission { user: Some(9), tag: 5, attributes: vec![("name".to_owned(), name)], actions })
    }

    fn on_disconnect(&mut self, departure: &Departure) -> Vec<Action> {
        let name = attributes::get(departure.session, "name");
        next(format!("disconnect {:?} {} {} {name:?}", departure.user, departure.tag, departure.cause))
    }
}

impl Presence for Scripted {
    fn on_away(&mut self, absence: &Absence) -> Vec<Action> {
        let name = attributes::get(absence.session, "name");
        next(format!("away {:?} {} {name:?}", absence.user, absence.tag))
    }

    fn on_back(&mut self, arrival: &Arrival) -> Vec<Action> {
        next(format!("back {:?} {} {}", arrival.user, arrival.tag, arrival.handed_over))
    }
}

impl Timers for Scripted {
    fn on_wake(&mut self, key: u64, now: u64) -> Vec<Action> {
        next(format!("wake {key} {now}"))
    }
}

export!(Scripted: Policy, Hearing, Sessions, Presence, Timers);

fn harness() -> Harness<Scripted> {
    Harness::new("{}").unwrap()
}

/// Carries out actions in answer to a packet of the first session.
#[track_caller]
fn act(harness: &mut Harness<Scripted>, actions: impl IntoIterator<Item = Action>) {
    NEXT.set(actions.into_iter().collect());
    harness.packet(ROUTE, b"payload").unwrap();
}

fn calls() -> Vec<String> {
    CALLS.take()
}

#[test]
fn the_manifest_has_what_the_plugin_declares() {
    let manifest = harness().describe();
    assert_eq!((&*manifest.name, &*manifest.version, &*manifest.routes), ("scripted", "test", &[ROUTE][..]));
    assert_eq!(manifest.metrics.iter().map(|metric| &*metric.name).collect::<Vec<_>>(), ["kills", "rooms"]);
    assert_eq!(manifest.state_format, 3);
}

#[test]
fn a_session_begins_with_its_admission_and_ends_with_its_departure() {
    let mut harness = harness();
    assert_eq!(harness.connect(""), Err(Denial::new(403, "no name")));
    NEXT.set(vec![Action::deliver_body(Target::Sender, ROUTE, "welcome")]);
    let anna = harness.connect("anna").unwrap();
    assert_eq!(anna, SessionId { high: 1, low: 3 });
    assert_eq!(harness.delivered(anna), [Push::new(ROUTE, "welcome")]);
    NEXT.set(vec![Action::join(anna, 1), Action::tag(anna, 6)]);
    harness.packet_from(anna, ROUTE, b"").unwrap();
    harness.disconnect(anna);
    assert_eq!(harness.members(1), []);
    let expected = ["connect 127.0.0.1:50000", "packet 1 Some(9) 5 anna", "disconnect Some(9) 6 closed None"];
    assert_eq!(calls(), expected);
}

#[test]
fn a_client_is_away_and_back_and_its_session_goes_on() {
    let mut harness = harness();
    let anna = harness.connect("anna").unwrap();
    calls();
    NEXT.set(vec![Action::deliver_body(Target::Sender, ROUTE, "missed"), Action::join(anna, 1)]);
    harness.leave(anna);
    harness.come_back(anna);
    assert_eq!((harness.delivered(anna), harness.members(1)), (vec![Push::new(ROUTE, "missed")], vec![anna]));
    harness.leave(anna);
    harness.disconnect(anna);
    let berta = harness.hand_over(Some(8), 6);
    assert_eq!((harness.user(berta), harness.tag(berta)), (Some(8), 6));
    let away = "away Some(9) 5 Some(\"anna\")";
    let expected = [away, "back Some(9) 5 false", away, "disconnect Some(9) 5 closed None", "back Some(8) 6 true"];
    assert_eq!(calls(), expected);
}

#[test]
#[should_panic(expected = "is not away")]
fn only_a_client_that_is_away_comes_back() {
    let mut harness = harness();
    harness.come_back(harness.session);
}

#[test]
fn an_ended_session_is_closed_and_reported() {
    let mut harness = harness();
    let anna = harness.connect("anna").unwrap();
    calls();
    act(
        &mut harness,
        [Action::end(Target::User(9), 4000, "banned"), Action::deliver_body(Target::User(9), ROUTE, "x")],
    );
    assert_eq!(harness.closing(anna), Some(Closing { code: 4000, reason: "banned".to_owned() }));
    assert_eq!(harness.closing(harness.session), None);
    assert_eq!(harness.delivered(anna), []);
    assert_eq!(calls(), ["packet 1 None 0 ", "disconnect Some(9) 5 policy None"]);
}

#[test]
fn a_push_reaches_its_receivers_except_one() {
    let mut harness = harness();
    let first = harness.session;
    let [a, b] = ["a", "b"].map(|name| harness.connect(name).unwrap());
    let group = Delivery::to(Target::Group(1), ROUTE).except(a).latest(7);
    act(&mut harness, [Action::join(a, 1), Action::join(b, 1), Action::join(b, 2), group.into()]);
    let push = Push { keep: Keep::Latest(7), ..Push::new(ROUTE, "payload") };
    assert_eq!([first, a, b].map(|session| harness.delivered(session)), [vec![], vec![], vec![push]]);

    act(&mut harness, [Action::leave(b, 1), Action::deliver_body(Target::Group(1), ROUTE, "x")]);
    act(&mut harness, [Action::deliver_body(Target::Session(b), 0x21, "y")]);
    act(&mut harness, [Action::deliver_body(Target::Sender, ROUTE, "z")]);
    let pushes = [Push::new(ROUTE, "z"), Push::new(ROUTE, "x"), Push::new(0x21, "y")];
    assert_eq!([first, a, b].map(|session| harness.delivered(session)), pushes.map(|push| vec![push]));
    assert_eq!((harness.members(1), harness.members(2)), (vec![a], vec![b]));
}

#[test]
fn a_user_is_bound_for_good() {
    let mut harness = harness();
    act(&mut harness, [Action::Bind(7)]);
    act(&mut harness, [Action::Bind(7)]);
    NEXT.set(vec![Action::Bind(8), Action::tag(harness.session, 1)]);
    assert_eq!(harness.packet(ROUTE, b"").unwrap_err().status, 6);
    assert_eq!((harness.user(harness.session), harness.tag(harness.session)), (Some(7), 0));
}

#[test]
fn an_interest_ends_with_its_holder() {
    let mut harness = harness();
    let session = harness.connect("anna").unwrap();
    assert!(harness.hears("news"));
    let (of_session, of_group) = (Action::listen_session(session, "user"), Action::listen_group(1, "room"));
    act(&mut harness, [of_session.clone(), of_group.clone()]);
    assert_eq!(["user", "room"].map(|topic| harness.hears(topic)), [true, false], "group 1 has no members");
    act(&mut harness, [Action::join(session, 1), of_group, Action::unlisten_session(session, "user")]);
    assert_eq!(["user", "room"].map(|topic| harness.hears(topic)), [false, true]);
    act(&mut harness, [of_session]);
    harness.disconnect(session);
    assert_eq!(["user", "room"].map(|topic| harness.hears(topic)), [false, false]);
}

#[test]
fn timers_fire_in_order_and_at_their_time() {
    let mut harness = harness();
    let start = harness.now;
    act(&mut harness, [Action::wake(1, SECOND * 3), Action::wake(2, SECOND), Action::wake(3, SECOND)]);
    act(&mut harness, [Action::wake(1, SECOND * 2), Action::cancel(3)]);
    assert_eq!([1, 2, 3].map(|key| harness.timer(key)), [Some(SECOND * 2), Some(SECOND), None]);
    calls();
    NEXT.set(vec![Action::wake(4, SECOND)]);
    assert_eq!(harness.advance(SECOND * 2), [Action::wake(4, SECOND)]);
    let at = |key: u64, seconds: u64| format!("wake {key} {}", start + seconds * 1000);
    assert_eq!(calls(), [at(2, 1), at(1, 2), at(4, 2)]);
    assert_eq!(harness.now, start + 2000);
}

#[test]
fn entries_are_read_in_the_order_of_their_keys_until_their_time_is_over() {
    let mut harness = harness();
    let long = Action::put("b/1", "long");
    act(&mut harness, [Action::put_for("b/2", "short", SECOND), long, Action::put("a", "x"), Action::put("c", "y")]);
    harness.put("b/0", "test");
    act(&mut harness, [Action::remove("a")]);
    assert_eq!((harness.state("a"), harness.state("c")), (None, Some(b"y".to_vec())));
    let scan = |harness: &mut Harness<Scripted>, max| {
        let now = harness.now;
        let entries = harness.world.call(now, || state::scan("b/", max));
        entries.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(scan(&mut harness, 9), ["b/0", "b/1", "b/2"]);
    assert_eq!(scan(&mut harness, 2), ["b/0", "b/1"]);
    harness.advance(SECOND);
    assert_eq!(scan(&mut harness, 9), ["b/0", "b/1"]);
}

#[test]
fn publishes_and_metrics_are_recorded() {
    let mut harness = harness();
    act(&mut harness, [Action::publish("t"), Action::publish_body("u", "body")]);
    let published = [("t", b"payload".to_vec()), ("u", b"body".to_vec())];
    assert_eq!(harness.published(), published.map(|(topic, body)| (topic.to_owned(), body)));
    assert_eq!(harness.published(), []);
    for value in [2.0, 3.0] {
        act(&mut harness, [Action::measure(0, value), Action::measure(1, value)]);
    }
    assert_eq!((harness.metric(0), harness.metric(1)), (5.0, 3.0));
}

#[test]
fn a_reload_keeps_what_the_gateway_keeps() {
    let mut harness = harness();
    let session = harness.session;
    act(&mut harness, [Action::put("k", "v"), Action::join(session, 1)]);
    harness.reload("{}").unwrap();
    assert_eq!((harness.state("k"), harness.members(1)), (Some(b"v".to_vec()), vec![session]));
    assert!(harness.reload(r#"{"config": {"k": 1}}"#).is_err());
}

/// Checks that the gateway refuses the actions as an answer to a call.
#[track_caller]
fn refused(actions: Vec<Action>, call: impl FnOnce(&mut Harness<Scripted>), why: &str) {
    let mut harness = harness();
    NEXT.set(actions);
    let panic = catch_unwind(AssertUnwindSafe(|| call(&mut harness))).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains(why), "{text}");
}

#[test]
fn an_action_that_the_gateway_refuses_is_a_panic() {
    let packet = |harness: &mut Harness<Scripted>| drop(harness.packet(ROUTE, b""));
    let message = |harness: &mut Harness<Scripted>| drop(harness.message("news", b""));
    let disconnect = |harness: &mut Harness<Scripted>| harness.disconnect(harness.session);
    let nobody = |harness: &mut Harness<Scripted>| drop(harness.packet_from(SessionId { high: 0, low: 0 }, ROUTE, b""));

    for action in [Action::reply(""), Action::Echo, Action::Bind(7)] {
        refused(vec![action], message, "what on_message returned, because only a packet can be answered");
    }
    refused(vec![Action::Reply(Answer { status: 9, body: Vec::new() })], packet, "9 to 255 are reserved");
    refused(vec![Action::deliver(Target::Sender, ROUTE)], message, "this call has no sender");
    refused(vec![Action::end(Target::Sender, 1000, "")], message, "this call has no sender");
    refused(vec![Action::publish("t")], disconnect, "what on_disconnect returned, because this call has no payload");
    for topic in ["", "a\n", &"x".repeat(257)] {
        refused(vec![Action::publish(topic)], packet, "a topic has 1 to 256 bytes");
        refused(vec![Action::listen_group(1, topic)], packet, "a topic has 1 to 256 bytes");
    }
    refused(vec![Action::publish("gateway:host")], packet, "topics that begin with gateway:host belong to the gateway");
    for code in [1001, 5000] {
        refused(vec![Action::end(Target::User(1), code, "")], packet, "a close code is 1000, or 3000 to 4999");
    }
    refused(vec![Action::end(Target::User(1), 1000, "x".repeat(124))], packet, "at most 123 bytes");
    for key in [String::new(), "x".repeat(257)] {
        refused(vec![Action::remove(key)], packet, "a key has 1 to 256 bytes");
    }
    refused(vec![Action::measure(2, 1.0)], packet, "no metric with this position");
    refused(vec![Action::measure(0, -1.0)], packet, "a counter only grows");
    refused(vec![Action::measure(1, f64::NAN)], packet, "a finite number");
    refused(vec![], nobody, "there is no live session");
}

#[test]
fn an_answer_that_the_gateway_refuses_is_a_panic() {
    for status in [0, 9, 255_u16] {
        let reject = |harness: &mut Harness<Scripted>| {
            REJECTION.set(Some(Rejection::new(status, "no")));
            drop(harness.packet(ROUTE, b""));
        };
        refused(vec![], reject, "a rejection has status 1 to 8, or 256 and above");
    }
    let many = (0..33).map(|number| (number.to_string(), String::new())).collect();
    let admitted = |attributes| Ok(Admission { attributes, ..Admission::default() });
    let cases = [
        (Err(Denial::new(302, "elsewhere")), "a denial has status 400 to 599"),
        (admitted(many), "at most 32 attributes"),
        (admitted(vec![("x".repeat(65), String::new())]), "at most 64 bytes of name"),
        (admitted(vec![("x".to_owned(), "x".repeat(1025))]), "1024 bytes of value"),
    ];
    for (answer, why) in cases {
        let connect = |harness: &mut Harness<Scripted>| {
            ANSWER.set(Some(answer));
            drop(harness.connect("anna"));
        };
        refused(vec![], connect, why);
    }
}

#[test]
fn a_session_is_not_admitted_for_another_user_than_its_token_names() {
    let mut harness = harness();
    let connection = |harness: &Harness<Scripted>, user| Connection { user, ..harness.connection("anna") };
    let denied = harness.connect_as(connection(&harness, Some(7))).unwrap_err();
    assert_eq!(denied, Denial::new(403, "the session is bound to another user"));
    let session = harness.connect_as(connection(&harness, Some(9))).unwrap();
    assert_eq!(harness.user(session), Some(9));
}

/// A plugin that only takes packets, and returns the actions of the test.
struct Minimal;

impl Plugin for Minimal {
    const NAME: &str = "minimal";
    type Config = NoConfig;

    fn configure(_: Settings<NoConfig>) -> Result<Self, String> {
        Ok(Self)
    }
}

impl Policy for Minimal {
    fn on_packet(&mut self, _: &Packet, _: &[u8]) -> Result<Vec<Action>, Rejection> {
        Ok(NEXT.take())
    }
}

export!(Minimal: Policy);

#[test]
fn only_exported_calls_can_be_made_or_caused() {
    let mut harness = Harness::<Minimal>::new("{}").unwrap();
    let session = harness.connect("").unwrap();
    harness.disconnect(session);
    let mut panics = |actions: Vec<Action>, call: fn(&mut Harness<Minimal>), why: &str| {
        NEXT.set(actions);
        let panic = catch_unwind(AssertUnwindSafe(|| call(&mut harness))).unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.contains(why), "{text}");
    };
    let packet = |harness: &mut Harness<Minimal>| drop(harness.packet(ROUTE, b""));
    panics(vec![Action::wake(1, SECOND)], packet, "only a plugin that exports `Timers` has timers");
    panics(vec![Action::listen_group(1, "t")], packet, "only a plugin that exports `Hearing` can listen");
    panics(vec![], |harness| drop(harness.message("t", b"")), "add `Hearing` to the plugin's `export!`");
}

#[test]
#[should_panic(expected = "but not in `configure`")]
fn state_cannot_be_read_outside_a_call() {
    let _ = state::get("k");
}

#[test]
fn vectors_fail_an_answer_that_the_gateway_refuses() {
    let table = r#"{ "suites": [ { "settings": { "config": {}, "routes": [32] }, "cases": [
        { "name": "reserved", "packet": {}, "expect": { "actions": [ { "reply": { "status": 99 } } ] } }
    ] } ] }"#;
    NEXT.set(vec![Action::Reply(Answer { status: 99, body: Vec::new() })]);
    let error = super::vectors::<Scripted>(table).unwrap_err();
    let why = "it panicked: the gateway refuses what on_packet returned, because the statuses 9 to 255 are reserved";
    assert!(error.contains(why), "{error}");
}
