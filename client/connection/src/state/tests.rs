//! Runs every case of `client/vectors/reconnect.json` against the state.

use std::collections::HashSet;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(rename = "about")]
    _about: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    url: String,
    steps: Vec<Step>,
}

/// What happens, and what follows from it. Everything that is not given is not checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    event: Happening,
    #[serde(default)]
    lived_ms: u64,
    then: Option<Then>,
    delay_ms: Option<[u64; 2]>,
    url: Option<String>,
    outcome: Option<Report>,
    delivered: Option<bool>,
    ack: Option<u16>,
    leave_after_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Happening {
    Welcome {
        #[serde(default)]
        resume_token: String,
        #[serde(default)]
        resumed: bool,
        #[serde(default)]
        packets_received: u64,
        #[serde(default)]
        replies_lost: u32,
    },
    Push(u32),
    Reply,
    Send(u64),
    Written(u64),
    Reconnect {
        url: String,
        after_ms: i64,
    },
    Left,
    Closed(Option<u16>),
    Lost,
    Silent,
    Unreachable,
    Refused {
        status: u16,
        #[serde(default)]
        retry_after_s: u64,
    },
    NoWelcome,
    NoGateway,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Then {
    Reconnect,
    RenewToken,
    Stop,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Report {
    Resumed { resent: u64, lost: u64, replies_lost: u32 },
    New { seen: u32, lost: u64 },
}

/// What a step has led to.
#[derive(Default)]
struct Effect {
    then: Option<Then>,
    delay_ms: Option<[u64; 2]>,
    outcome: Option<Report>,
    delivered: Option<bool>,
    leave_after_ms: Option<u64>,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

fn delayed(delay: &Delay) -> Effect {
    let delay_ms = Some([millis(delay.at_least), millis(delay.at_most)]);
    Effect { then: Some(Then::Reconnect), delay_ms, ..Effect::default() }
}

fn decided(decision: Decision) -> Effect {
    match decision {
        Decision::Reconnect(delay) => delayed(&delay),
        Decision::RenewToken => Effect { then: Some(Then::RenewToken), ..Effect::default() },
        Decision::Stop => Effect { then: Some(Then::Stop), ..Effect::default() },
    }
}

fn happen(state: &mut State, event: &Happening, lived: Duration) -> Effect {
    let end = match *event {
        Happening::Welcome { ref resume_token, resumed, packets_received, replies_lost } => {
            let resume_token = resume_token.clone();
            let welcome = Welcome { resume_token, resumed, packets_received, replies_lost, ..Welcome::default() };
            let outcome = match state.welcome(&welcome) {
                Outcome::Resumed { resent, lost, replies_lost } => Report::Resumed { resent, lost, replies_lost },
                Outcome::New { seen, lost } => Report::New { seen, lost },
            };
            return Effect { outcome: Some(outcome), ..Effect::default() };
        }
        Happening::Push(seq) => {
            return Effect { delivered: Some(state.receive(Header::push(1, seq))), ..Effect::default() };
        }
        Happening::Reply => {
            let is_new = state.receive(Header::request(1, 1).reply(0));
            return Effect { delivered: Some(is_new), ..Effect::default() };
        }
        Happening::Send(packets) => {
            (0..packets).for_each(|_| state.sent.push(Packet::request(1, 1, "")));
            return Effect::default();
        }
        Happening::Written(packets) => {
            for _ in 0..packets {
                assert!(state.next_packet().is_some(), "no packet waits");
                state.sent.wrote();
            }
            return Effect::default();
        }
        Happening::Reconnect { ref url, after_ms } => {
            let after = state.leave_after(&Reconnect { url: url.clone(), after_ms });
            return Effect { leave_after_ms: Some(millis(after)), ..Effect::default() };
        }
        Happening::Left => return delayed(&state.left(lived)),
        Happening::Closed(code) => End::Closed(code),
        Happening::Lost => End::Lost,
        Happening::Silent => End::Silent,
        Happening::Unreachable => End::Unreachable,
        Happening::Refused { status, retry_after_s } => {
            End::Refused { status, retry_after: Duration::from_secs(retry_after_s) }
        }
        Happening::NoWelcome => End::NoWelcome,
        Happening::NoGateway => End::NoGateway,
    };
    decided(state.end(end, lived))
}

/// Checks what a step expects. Adds what is wrong to `wrong`.
fn compare<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: Option<&T>,
    real: Option<&T>,
    wrong: &mut Vec<String>,
) {
    if expected.is_some() && expected != real {
        wrong.push(format!("{what}: {real:?} instead of {expected:?}"));
    }
}

fn run(case: &Case) -> Vec<String> {
    let mut state = State::new(case.url.parse().unwrap());
    let mut wrong = Vec::new();
    for (number, step) in (1..).zip(&case.steps) {
        let effect = happen(&mut state, &step.event, Duration::from_millis(step.lived_ms));
        let mut here = Vec::new();
        compare("then", step.then.as_ref(), effect.then.as_ref(), &mut here);
        compare("delay_ms", step.delay_ms.as_ref(), effect.delay_ms.as_ref(), &mut here);
        compare("url", step.url.as_ref(), Some(&state.url().uri().to_string()), &mut here);
        compare("outcome", step.outcome.as_ref(), effect.outcome.as_ref(), &mut here);
        compare("delivered", step.delivered.as_ref(), effect.delivered.as_ref(), &mut here);
        compare("leave_after_ms", step.leave_after_ms.as_ref(), effect.leave_after_ms.as_ref(), &mut here);
        if let Some(ack) = step.ack {
            state.sent.push(Packet::request(1, 1, ""));
            let header = state.next_packet().unwrap().header;
            state.sent.wrote();
            compare("ack", Some(&(FLAG_ACK, ack)), Some(&(header.flags, header.status)), &mut here);
        }
        wrong.extend(here.into_iter().map(|wrong| format!("{:?}, step {number}: {wrong}", case.name)));
    }
    wrong
}

#[test]
fn the_vectors_hold() {
    let table: Table = serde_json::from_str(include_str!("../../../vectors/reconnect.json")).unwrap();
    let names: HashSet<_> = table.cases.iter().map(|case| &case.name).collect();
    assert_eq!(names.len(), table.cases.len(), "two cases have the same name");
    let wrong: Vec<_> = table.cases.iter().flat_map(run).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_packet_without_a_push_before_it_acknowledges_nothing() {
    let mut state = State::new("ws://a/ws".parse().unwrap());
    state.welcome(&Welcome::default());
    state.sent.push(Packet::request(1, 1, "hi"));
    assert_eq!(state.next_packet(), Some(Packet::request(1, 1, "hi")));
}

#[test]
fn the_largest_numbers_of_a_gateway_do_no_harm() {
    let mut state = State::new("ws://a/ws".parse().unwrap());
    let most = |resumed| Welcome {
        resume_token: "t".into(),
        resumed,
        packets_received: u64::MAX,
        replies_lost: u32::MAX,
        ..Welcome::default()
    };
    state.welcome(&most(false));
    for _ in 0..2 {
        state.sent.push(Packet::request(1, 1, "hi"));
        assert_eq!(state.welcome(&most(true)), Outcome::Resumed { resent: 0, lost: 0, replies_lost: u32::MAX });
    }
    let endless = Reconnect { url: String::new(), after_ms: i64::MAX };
    assert_eq!(state.leave_after(&endless), MAX_WAIT);
    let endless = End::Refused { status: 503, retry_after: Duration::MAX };
    assert!(matches!(state.end(endless, Duration::ZERO), Decision::Reconnect(delay) if delay.at_least == MAX_WAIT));
}

#[test]
fn a_token_of_a_gateway_does_not_make_the_url_endless() {
    let token = |len| {
        let mut state = State::new("ws://a/ws".parse().unwrap());
        state.welcome(&Welcome { resume_token: "t".repeat(len), ..Welcome::default() });
        state.url().uri().query().is_some()
    };
    assert_eq!([MAX_TOKEN_BYTES, MAX_TOKEN_BYTES + 1].map(token), [true, false]);
}

#[test]
fn the_packets_that_wait_have_a_bound_in_bytes() {
    let mut sent = Sent::default();
    for _ in 0..3 {
        sent.push(Packet::request(1, 1, vec![0; 30 << 10]));
    }
    assert_eq!(sent.waiting(), 2);
    // A packet of any size can be sent.
    sent.push(Packet::request(1, 1, vec![0; 1 << 20]));
    assert_eq!((sent.waiting(), sent.unwritten().unwrap().payload.len()), (1, 1 << 20));
    assert_eq!(sent.resume(0), 3);
}
