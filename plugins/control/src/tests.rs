use super::*;
use gateway_plugin_sdk::{Closing, testing::Harness};

const SESSION: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn message(text: &str) -> Result<Vec<Action>, Rejection> {
    Harness::<Control>::new("{}").unwrap().message(TOPIC, text.as_bytes())
}

#[test]
fn a_user_or_a_session_is_ended() {
    let control = Harness::<Control>::new("{}").unwrap();
    assert_eq!(control.topics, ["gateway:control"]);
    let user = message(r#"{"close": {"user": 7000000000, "code": 4003, "reason": "banned"}}"#);
    assert_eq!(user, Ok(vec![Action::end(Target::User(7_000_000_000), 4003, "banned")]));
    let session = message(&format!(r#"{{"close": {{"session": "{SESSION}"}}}}"#));
    assert_eq!(session, Ok(vec![Action::end(Target::Session(SESSION.parse().unwrap()), 4002, "")]));
}

#[test]
fn every_session_of_the_user_is_ended_and_no_other() {
    let mut control = Harness::<Control>::new("{}").unwrap();
    let sessions = [7, 7, 8].map(|user| {
        let session = control.connect("").unwrap();
        control.bind(session, user);
        session
    });
    control.message(TOPIC, br#"{"close": {"user": 7, "reason": "banned"}}"#).unwrap();
    let banned = Some(Closing { code: 4002, reason: "banned".to_owned() });
    assert_eq!(sessions.map(|session| control.closing(session)), [banned.clone(), banned, None]);
}

#[track_caller]
fn refused(text: &str, why: &str) {
    let rejection = message(text).unwrap_err();
    assert_eq!(rejection.status, 2);
    assert!(rejection.message.contains(why), "{}", rejection.message);
}

#[test]
fn a_rejection_names_what_is_wrong_with_the_json() {
    refused("", "EOF while parsing");
    refused("close 7", "expected value");
    refused("{}", "missing field `close`");
    refused(r#"{"end": {"user": 7}}"#, "unknown field `end`");
    refused(r#"{"close": {"usr": 7}}"#, "unknown field `usr`");
    refused(r#"{"close": {"user": "7"}}"#, "invalid type: string \"7\", expected i64");
    refused(r#"{"close": {}}"#, "close has to have either `user` or `session`");
    refused(&format!(r#"{{"close": {{"user": 7, "session": "{SESSION}"}}}}"#), "either `user` or `session`");
    refused(r#"{"close": {"session": "7"}}"#, "close.session: a session id is a UUID");
    for code in [0, 999, 1001, 2999, 5000] {
        refused(&format!(r#"{{"close": {{"user": 7, "code": {code}}}}}"#), "close.code: 1000, or 3000 to 4999");
    }
    refused(r#"{"close": {"user": 7, "code": 65536}}"#, "invalid value: integer `65536`, expected u16");
}

#[test]
fn the_code_and_the_reason_are_bounded() {
    for code in [1000, 3000, 4999] {
        let ended = message(&format!(r#"{{"close": {{"user": 7, "code": {code}}}}}"#));
        assert_eq!(ended, Ok(vec![Action::end(Target::User(7), code, "")]));
    }
    let reason = |bytes| format!(r#"{{"close": {{"user": 7, "reason": "{}"}}}}"#, "x".repeat(bytes));
    assert_eq!(message(&reason(123)), Ok(vec![Action::end(Target::User(7), 4002, "x".repeat(123))]));
    refused(&reason(124), "close.reason: at most 123 bytes");
}
